"""Embeddings of a corpus or its queries: tokenized once, chunked by length, split over the ranks."""

from pathlib import Path

import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from mnrl_job.embedding.chunk_budget import chunk_budget_for
from mnrl_job.embedding.chunks import chunk_by_length
from mnrl_job.embedding.flat_buffer import to_device
from mnrl_job.embedding.masks import embed
from mnrl_job.embedding.nonfinite import check_finite
from mnrl_job.embedding.precision import Precision, autocast
from mnrl_job.embedding.prompts import Kind
from mnrl_job.embedding.rank_slice import own_slice, tiles_of
from mnrl_job.embedding.tokens import TEXTS_PER_BATCH, Tokens, read_or_tokenize
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.logs import shows_progress
from mnrl_job.system.preemption import raise_if_stop_requested

# Fewer chunks need no progress bar.
MIN_CHUNKS_SHOWN = 50


def encode(
    model: SentenceTransformer, texts: pa.ChunkedArray, kind: Kind, precision: Precision, tokens: Path
) -> torch.Tensor:
    """Same as the library's `encode_query` and `encode_document`, normalized and in fp32. Collective.

    The kind selects the prompt, and the route in models with two. The file `tokens`, one for each prompt, is read if it
    exists. The result, shape (texts, dimension), is the same on every rank, as are the texts.

    Raises:
        Preempted: this process was asked to stop.
        NonFiniteEmbedding: the model returns NaN or infinity for a text.
    """
    model.eval()
    tokenized = read_or_tokenize(model, texts, kind, tokens)
    embeddings = torch.zeros(len(texts), int(model.get_embedding_dimension() or 0), device=PartialState().device)
    if tokenized is None:
        _encode_texts(model, texts.to_pylist(), kind, precision, embeddings)
    else:
        _encode_tokens(model, tokenized, kind, precision, embeddings)
    gathered: torch.Tensor = reduce(embeddings, "sum")
    check_finite(gathered, texts, kind)
    return gathered


def _encode_tokens(
    model: SentenceTransformer, tokenized: Tokens, kind: Kind, precision: Precision, embeddings: torch.Tensor
) -> None:
    state = PartialState()
    # Sorted by length: every n-th chunk balances the ranks.
    budget = chunk_budget_for(model, state.device)
    chunks = chunk_by_length(tokenized.lengths, budget, int(tokenized.lengths.max()))
    local = chunks[state.process_index :: state.num_processes]
    shown = state.is_main_process and shows_progress() and len(local) > MIN_CHUNKS_SHOWN
    with torch.inference_mode(), autocast(precision, state.device):
        for chunk in tqdm(local, desc=f"embedding each {kind}", unit="chunk", disable=not shown):
            raise_if_stop_requested()
            heartbeat()
            features = tokenized.features(chunk.rows, chunk.width)
            features, rows = to_device([features, torch.from_numpy(chunk.rows)], state.device)
            chunk_embeddings = embed(model, features, task=kind).float()[:, : model.truncate_dim]
            embeddings[rows] = torch.nn.functional.normalize(chunk_embeddings)


def _encode_texts(
    model: SentenceTransformer, texts: list[str], kind: Kind, precision: Precision, embeddings: torch.Tensor
) -> None:
    """With the library's methods, one slice per rank."""
    library_encode = model.encode_query if kind == "query" else model.encode_document
    with autocast(precision, PartialState().device):
        for rows in tiles_of(own_slice(len(texts)), TEXTS_PER_BATCH):
            raise_if_stop_requested()
            heartbeat()
            embeddings[rows] = library_encode(texts[rows], convert_to_tensor=True, normalize_embeddings=True).float()
