"""A corpus or its queries to embeddings: tokenised once, in chunks of like length, shared among the ranks."""

from functools import partial
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from mnrl_job.embedding.chunk_limits import limit_for
from mnrl_job.embedding.chunks import chunk_by_length
from mnrl_job.embedding.finite import check_finite
from mnrl_job.embedding.masks import embed
from mnrl_job.embedding.packing import to_device
from mnrl_job.embedding.precision import Precision, autocast
from mnrl_job.embedding.prompts import Kind, find_prompt, token_file
from mnrl_job.embedding.rank_slice import rank_slice
from mnrl_job.embedding.tokens import TEXTS_AT_ONCE, read_or_tokenize
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.logs import shows_progress
from mnrl_job.system.preemption import raise_if_stop_requested

MANY_CHUNKS = 50


def encode(
    model: SentenceTransformer, texts: pa.ChunkedArray, kind: Kind, precision: Precision, tokens: Path
) -> torch.Tensor:
    """What the library's `encode_query` and `encode_document` give, of unit length and in fp32.

    Args:
        model: on this rank's device.
        texts: the same on every rank.
        kind: decides the prompt, and the way through models that have two.
        precision: the arithmetic of the model.
        tokens: a file of ours, one for each prompt; where it exists it holds the tokens of these texts.

    Returns:
        Shape (texts, dimension), the same on every rank.

    Raises:
        Preempted: this process was asked to stop.
        UndefinedEmbedding: the model gives no numbers for a text.
    """
    model.eval()
    embeddings = _encode(model, texts, kind, precision, tokens)
    check_finite(embeddings, texts, kind)
    return embeddings


def _encode(
    model: SentenceTransformer, texts: pa.ChunkedArray, kind: Kind, precision: Precision, tokens: Path
) -> torch.Tensor:
    prompt = find_prompt(model, kind)
    preprocess = partial(model.preprocess, prompt=prompt, task=kind)
    tokenised = read_or_tokenize([preprocess], model.tokenizer, [texts], [token_file(tokens, prompt)])
    if tokenised is None:
        return _encode_texts(model, texts.to_pylist(), kind, precision)
    (known,) = tokenised
    state = PartialState()
    # From long to short, so that every n-th makes equal shares.
    chunks = chunk_by_length(known.lengths, limit_for(model, state.device), int(known.lengths.max()))
    own = chunks[state.process_index :: state.num_processes]
    shown = state.is_main_process and shows_progress() and len(own) > MANY_CHUNKS
    embeddings = torch.zeros(len(texts), int(model.get_embedding_dimension() or 0), device=state.device)
    with torch.inference_mode(), autocast(precision, state.device):
        for chunk in tqdm(own, desc=f"embedding each {kind}", unit="chunk", disable=not shown):
            raise_if_stop_requested()
            heartbeat()
            features = known.features(chunk.rows, chunk.width)
            features, rows = to_device([features, torch.from_numpy(chunk.rows)], state.device)
            found = embed(model, features, task=kind).float()[:, : model.truncate_dim]
            embeddings[rows] = torch.nn.functional.normalize(found)
    everywhere: torch.Tensor = reduce(embeddings, "sum")
    return everywhere


def _encode_texts(model: SentenceTransformer, texts: list[str], kind: Kind, precision: Precision) -> torch.Tensor:
    """By the library, each rank a slice."""
    state = PartialState()
    encode_them = model.encode_query if kind == "query" else model.encode_document
    own = rank_slice(len(texts), state.process_index, state.num_processes)
    embeddings = torch.zeros(len(texts), int(model.get_embedding_dimension() or 0), device=state.device)
    with autocast(precision, state.device):
        for first in range(own.start, own.stop, TEXTS_AT_ONCE):
            raise_if_stop_requested()
            heartbeat()
            some = slice(first, min(first + TEXTS_AT_ONCE, own.stop))
            embeddings[some] = encode_them(texts[some], convert_to_tensor=True, normalize_embeddings=True).float()
    everywhere: torch.Tensor = reduce(embeddings, "sum")
    return everywhere
