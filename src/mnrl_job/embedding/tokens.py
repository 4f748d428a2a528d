"""Texts tokenized once, stored as memory-mapped Arrow files, and padded no further than a chunk needs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from mnrl_job.data.tables import read_table
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.local_rank import is_local_main_process

TEXTS_PER_BATCH = 10_000
# The library pads to the longest text of a call.
TEXTS_PER_CALL = 256
PROBED_TEXTS = 64
# Key of a chunk's features: whether any of its texts is padded. Read by `masks.embed`, not by the model.
PADDED = "padded"

Features = dict[str, Any]
Preprocess = Callable[[list[str]], Features]


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
    expected = preprocess(texts[:PROBED_TEXTS])
    tensors = {name: value for name, value in expected.items() if torch.is_tensor(value)}
    known = ("input_ids", "attention_mask", "token_type_ids")
    if not {"input_ids", "attention_mask"} <= set(tensors) <= set(known):
        return None
    constants = {name: value for name, value in expected.items() if name not in tensors}
    pads_left = tokenizer.padding_side == "left"
    names = tuple(name for name in known if name in tensors)
    input_format = InputFormat(names, tokenizer.pad_token_id, pads_left, constants)
    built = input_format.features(_without_padding(expected), expected["input_ids"].shape[1])
    return input_format if all(torch.equal(built[name], tensors[name]) for name in tensors) else None


def tokenize(preprocess: Preprocess, texts: pa.ChunkedArray, path: Path) -> None:
    """Write the token ids of a column of texts, truncated as the model does, using the tokenizer's threads."""
    schema = pa.schema([("ids", pa.list_(pa.int32()))])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            heartbeat()
            ids = _token_ids(preprocess, texts.slice(start, TEXTS_PER_BATCH).to_pylist())
            writer.write_batch(pa.record_batch([pa.array(ids, schema.field("ids").type)], schema=schema))


def read_or_tokenize(
    preprocess: Sequence[Preprocess], tokenizer: Any, columns: Sequence[pa.ChunkedArray], paths: Sequence[Path]
) -> list[Tokens] | None:
    """The tokens of some columns of texts; missing files are written by the first worker of this machine.

    `preprocess` is the model's, for each column with its prompt. None for models whose input is not token ids.
    """
    formats: list[InputFormat] = []
    for preprocess_column, texts in zip(preprocess, columns, strict=True):
        input_format = detect_input_format(preprocess_column, tokenizer, texts.slice(0, PROBED_TEXTS).to_pylist())
        if input_format is None:
            return None
        formats.append(input_format)
    with _first_of_machine_first():
        for preprocess_column, texts, path in zip(preprocess, columns, paths, strict=True):
            if is_local_main_process() and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                tokenize(preprocess_column, texts, path)
    return [read_tokens(path, input_format) for path, input_format in zip(paths, formats, strict=True)]


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


def _token_ids(preprocess: Preprocess, texts: list[str]) -> list[NDArray[np.int32]]:
    """The ids of each text. Texts are sorted by length, since the library pads to the longest of a call."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    ids: list[NDArray[np.int32]] = [np.empty(0, dtype=np.int32)] * len(texts)
    for rows in np.split(order, range(TEXTS_PER_CALL, len(order), TEXTS_PER_CALL)):
        features = preprocess([texts[row] for row in rows])
        for row, text_ids in zip(rows, _without_padding(features), strict=True):
            ids[row] = text_ids
    return ids


def _without_padding(features: Features) -> list[NDArray[np.int32]]:
    pairs = zip(features["input_ids"].numpy(), features["attention_mask"].numpy().astype(bool), strict=True)
    return [ids[mask].astype(np.int32) for ids, mask in pairs]
