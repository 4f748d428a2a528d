"""Texts as token ids, padded no further than a chunk needs.

Those to embed are tokenized once, into memory-mapped Arrow files; those to train on when a batch needs them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from mnrl_job.data.tables import read_table
from mnrl_job.embedding.positions import max_tokens
from mnrl_job.embedding.prompts import Kind, find_prompt, token_file
from mnrl_job.embedding.word_tokenizer import TOKENS, WordTokenizer, splits_at_spaces
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.local_rank import is_local_main_process

TEXTS_PER_BATCH = 10_000
# Limits the memory of a call of the library.
TEXTS_PER_CALL = 256
# Half of the library's time goes into padding, masks and tensors.
UNPADDED: dict[str, Any] = {
    "text": {"padding": False, "return_attention_mask": False, "return_token_type_ids": False},
    "common": {"return_tensors": None},
}
PROBED_TEXTS = 64
# On the first texts preprocessing outside the tokenizer shows, on the last one truncation.
PROBES = ["a text", "  Où est la CLÉ?\n ", "\u65e5\u672c\u8a9e \U0001f642 x\u0301", " ".join(map(str, range(1000)))]
# Key of a chunk's features: whether any of its texts is padded. Read by `masks.embed`, not by the model.
PADDED = "padded"

Features = dict[str, Any]
Preprocess = Callable[..., Features]
# The token ids of many texts, as lists of type `TOKENS`.
Tokenize = Callable[[pa.ChunkedArray], pa.ListArray]


@dataclass(frozen=True, slots=True)
class InputFormat:
    """How model input is built from token ids: names of the tensors, padding, and constant features."""

    names: tuple[str, ...]
    pad_id: int
    pads_left: bool
    constants: Features

    def features(self, texts: list[NDArray[np.int32]], width: int) -> Features:
        """Same as the library's preprocessing of these texts, padded to `width`, shape (texts, width).

        In addition `PADDED`, whether any text is shorter.
        """
        ids = np.full((len(texts), width), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            columns = slice(width - len(text), None) if self.pads_left else slice(len(text))
            ids[row, columns], mask[row, columns] = text, 1
        tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        padded = {PADDED: any(len(text) < width for text in texts)}
        return self.constants | padded | {name: torch.from_numpy(tensors[name]) for name in self.names}


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token ids of n texts, mapped from disk, and their `lengths`, shape (n,)."""

    input_format: InputFormat
    lengths: NDArray[np.int64]
    parts: tuple[tuple[NDArray[np.int32], NDArray[np.int32]], ...]

    def features(self, rows: NDArray[np.int64], width: int) -> Features:
        """Some texts as model input, padded to `width`."""
        return self.input_format.features([self[row] for row in rows.tolist()], width)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        ids, offsets = self.parts[row // TEXTS_PER_BATCH]
        index = row % TEXTS_PER_BATCH
        return ids[offsets[index] : offsets[index + 1]]


def detect_input_format(preprocess: Preprocess, tokenizer: Any, texts: list[str]) -> InputFormat | None:
    """How the model's input is built from token ids; None if its input is anything else.

    Verified, not assumed: the input of some texts is built from their ids and must equal the library's.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or tokenizer.pad_token_id is None:
        return None
    texts = texts[:PROBED_TEXTS]
    if not isinstance(preprocess(texts, processing_kwargs=UNPADDED).get("input_ids"), list):
        return None
    expected = preprocess(texts)
    tensors = {name: value for name, value in expected.items() if torch.is_tensor(value)}
    known = ("input_ids", "attention_mask", "token_type_ids")
    if not {"input_ids", "attention_mask"} <= set(tensors) <= set(known):
        return None
    constants = {name: value for name, value in expected.items() if name not in tensors}
    pads_left = tokenizer.padding_side == "left"
    names = tuple(name for name in known if name in tensors)
    input_format = InputFormat(names, tokenizer.pad_token_id, pads_left, constants)
    ids = token_ids(partial(tokenize_in_calls, preprocess), texts)
    built = input_format.features(ids, expected["input_ids"].shape[1])
    return input_format if all(torch.equal(built[name], tensors[name]) for name in tensors) else None


def token_ids(tokenize: Tokenize, texts: list[str]) -> list[NDArray[np.int32]]:
    """The ids of each text, truncated as the model does."""
    lists = tokenize(pa.chunked_array([texts], pa.string()))
    ids = np.asarray(lists.values)
    return [ids[start:stop] for start, stop in pairwise(np.asarray(lists.offsets).tolist())]


class _WithoutOffsets:
    """A tokenizer's backend that does not track the characters of each token, which takes a quarter of its time."""

    def __init__(self, backend: Any) -> None:
        vars(self)["backend"] = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["backend"], "encode_batch_fast" if name == "encode_batch" else name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["backend"], name, value)


def skip_offsets(tokenizer: Any) -> None:
    """From now on have a tokenizer give the same ids in less time, if its backend can."""
    backend = getattr(tokenizer, "_tokenizer", None)
    if hasattr(backend, "encode_batch_fast"):
        tokenizer._tokenizer = _WithoutOffsets(backend)


def choose_tokenize(model: SentenceTransformer, preprocess: Preprocess, prompt: str | None) -> Tokenize:
    """The fastest way to tokenize many texts as `preprocess` does, which is the model's with the prompt.

    Verified, not assumed: words are tokenized apart only if that gives equal ids for some texts.
    """
    in_calls = partial(tokenize_in_calls, preprocess)
    backend, limit = getattr(model.tokenizer, "backend_tokenizer", None), max_tokens(model)
    if backend is None or not splits_at_spaces(backend):
        return in_calls
    by_words = WordTokenizer(backend, prompt, limit)
    probes = pa.chunked_array([[*PROBES, "word " * (limit or 0) + "beyond"]])
    return by_words if by_words(probes).equals(in_calls(probes)) else in_calls


def tokenize_in_calls(preprocess: Preprocess, texts: pa.ChunkedArray) -> pa.ListArray:
    """Tokenize with the library, a few texts at a time."""
    calls = (texts.slice(start, TEXTS_PER_CALL).to_pylist() for start in range(0, len(texts), TEXTS_PER_CALL))
    parts = (pa.array(preprocess(call, processing_kwargs=UNPADDED)["input_ids"], TOKENS) for call in calls)
    return pa.concat_arrays([pa.array([], TOKENS), *parts])


def write_tokens(tokenize: Tokenize, texts: pa.ChunkedArray, path: Path) -> None:
    """Write the token ids of a column of texts."""
    schema = pa.schema([("ids", TOKENS)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            heartbeat()
            ids = tokenize(texts.slice(start, TEXTS_PER_BATCH))
            writer.write_batch(pa.record_batch([ids], schema=schema))


def read_or_tokenize(model: SentenceTransformer, texts: pa.ChunkedArray, kind: Kind, path: Path) -> Tokens | None:
    """The tokens of queries or documents; a missing file, one for each prompt, is written by the first local worker.

    None for models whose input is not token ids.
    """
    prompt = find_prompt(model, kind)
    path = token_file(path, prompt)
    preprocess = partial(model.preprocess, prompt=prompt, task=kind)
    input_format = detect_input_format(preprocess, model.tokenizer, texts.slice(0, PROBED_TEXTS).to_pylist())
    if input_format is None:
        return None
    with _first_of_machine_first():
        if is_local_main_process() and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tokens(choose_tokenize(model, preprocess, prompt), texts, path)
    return read_tokens(path, input_format)


@contextmanager
def _first_of_machine_first() -> Iterator[None]:
    """Like accelerate's `local_main_process_first`."""
    if not is_local_main_process():
        PartialState().wait_for_everyone()
    yield
    if is_local_main_process():
        PartialState().wait_for_everyone()


def read_tokens(path: Path, input_format: InputFormat) -> Tokens:
    """Map a file written by `tokenize`."""
    chunks = read_table(path)["ids"].chunks
    parts = tuple((np.asarray(chunk.values), np.asarray(chunk.offsets)) for chunk in chunks)
    lengths = [np.diff(offsets) for _, offsets in parts] or [np.empty(0)]
    return Tokens(input_format, np.concatenate(lengths).astype(np.int64), parts)
