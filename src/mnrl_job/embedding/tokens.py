"""Texts tokenised once, kept as Arrow files mapped into memory, and padded no further than a chunk needs."""

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

TEXTS_AT_ONCE = 10_000
# The library pads to the longest of a call.
TEXTS_PER_CALL = 256
PROBED_TEXTS = 64
# Beside a chunk's tensors: whether any of its texts is padded. For `masks.embed`, not for the model.
PADDED = "padded"

Features = dict[str, Any]
Preprocess = Callable[[list[str]], Features]


@dataclass(frozen=True, slots=True)
class InputFormat:
    """What the model takes beside the token ids: which tensors, what padding, and what is the same for all texts."""

    names: tuple[str, ...]
    pad_id: int
    pads_left: bool
    constants: Features

    def features(self, texts: list[NDArray[np.int32]], width: int) -> Features:
        """What the library's own preprocessing gives for these texts, padded to some width, shape (texts, width).

        And, as `PADDED`, whether any text is shorter.
        """
        ids = np.full((len(texts), width), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            place = slice(width - len(text), None) if self.pads_left else slice(len(text))
            ids[row, place], mask[row, place] = text, 1
        tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        padded = {PADDED: any(len(text) < width for text in texts)}
        return self.constants | padded | {name: torch.from_numpy(tensors[name]) for name in self.names}


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token ids of n texts, mapped from disk: `lengths`, shape (n,), and the ids of any of them."""

    form: InputFormat
    lengths: NDArray[np.int64]
    parts: tuple[tuple[NDArray[np.int32], NDArray[np.int32]], ...]

    def features(self, rows: NDArray[np.int64], width: int) -> Features:
        """Some texts as model input, padded to some width."""
        return self.form.features([self[row] for row in rows.tolist()], width)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        ids, starts = self.parts[row // TEXTS_AT_ONCE]
        at = row % TEXTS_AT_ONCE
        return ids[starts[at] : starts[at + 1]]


def detect_input_format(preprocess: Preprocess, tokenizer: Any, texts: list[str]) -> InputFormat | None:
    """How the model's input is built from token ids; None for models whose input is something else.

    It is not believed but tried: the input of some texts is built from their ids and must equal the library's.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or tokenizer.pad_token_id is None:
        return None
    probed = preprocess(texts[:PROBED_TEXTS])
    tensors = {name: value for name, value in probed.items() if torch.is_tensor(value)}
    known = ("input_ids", "attention_mask", "token_type_ids")
    if not {"input_ids", "attention_mask"} <= set(tensors) <= set(known):
        return None
    constants = {name: value for name, value in probed.items() if name not in tensors}
    left = tokenizer.padding_side == "left"
    form = InputFormat(tuple(name for name in known if name in tensors), tokenizer.pad_token_id, left, constants)
    built = form.features(_unpadded(probed), probed["input_ids"].shape[1])
    same = all(torch.equal(built[name], tensors[name]) for name in tensors)
    return form if same else None


def tokenize(preprocess: Preprocess, texts: pa.ChunkedArray, path: Path) -> None:
    """Write the token ids of a column of texts, cut as the model cuts them, in parallel by the tokenizer's threads."""
    schema = pa.schema([("ids", pa.list_(pa.int32()))])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            heartbeat()
            ids = _tokenized(preprocess, texts.slice(start, TEXTS_AT_ONCE).to_pylist())
            writer.write_batch(pa.record_batch([pa.array(ids, schema.field("ids").type)], schema=schema))


def read_or_tokenize(
    preprocess: Sequence[Preprocess], tokenizer: Any, columns: Sequence[pa.ChunkedArray], paths: Sequence[Path]
) -> list[Tokens] | None:
    """The tokens of some columns of texts, made by the first worker of this machine where they are not there yet.

    Args:
        preprocess: of the model, for each column with its prompt.
        tokenizer: of the model.
        columns: the texts.
        paths: for each column where its tokens are kept.

    Returns:
        Those of each column; None for models that read something else than token ids.
    """
    forms: list[InputFormat] = []
    for make, texts in zip(preprocess, columns, strict=True):
        form = detect_input_format(make, tokenizer, texts.slice(0, PROBED_TEXTS).to_pylist())
        if form is None:
            return None
        forms.append(form)
    with _first_of_machine_first():
        for make, texts, path in zip(preprocess, columns, paths, strict=True):
            if is_local_main_process() and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                tokenize(make, texts, path)
    return [read_tokens(path, form) for path, form in zip(paths, forms, strict=True)]


@contextmanager
def _first_of_machine_first() -> Iterator[None]:
    """As accelerate's `local_main_process_first`."""
    if not is_local_main_process():
        PartialState().wait_for_everyone()
    yield
    if is_local_main_process():
        PartialState().wait_for_everyone()


def read_tokens(path: Path, form: InputFormat) -> Tokens:
    """Map what `tokenize` wrote."""
    chunks = read_table(path)["ids"].chunks
    parts = tuple((np.asarray(chunk.values), np.asarray(chunk.offsets)) for chunk in chunks)
    lengths = [np.diff(starts) for _, starts in parts] or [np.empty(0)]
    return Tokens(form, np.concatenate(lengths).astype(np.int64), parts)


def _tokenized(preprocess: Preprocess, texts: list[str]) -> list[NDArray[np.int32]]:
    """The ids of each text. Texts of like length go together, since the library pads to the longest."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    ids: list[NDArray[np.int32]] = [np.empty(0, dtype=np.int32)] * len(texts)
    for some in np.split(order, range(TEXTS_PER_CALL, len(order), TEXTS_PER_CALL)):
        for row, text in zip(some, _unpadded(preprocess([texts[row] for row in some])), strict=True):
            ids[row] = text
    return ids


def _unpadded(features: Features) -> list[NDArray[np.int32]]:
    pairs = zip(features["input_ids"].numpy(), features["attention_mask"].numpy().astype(bool), strict=True)
    return [ids[mask].astype(np.int32) for ids, mask in pairs]
