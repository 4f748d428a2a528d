"""What a guide model makes of the training texts: embedded once before training, then looked up by row.

The guide stands still, so each distinct text is embedded once, by all ranks in shares. The embeddings are kept on disk
and mapped into memory; the anchors have a file of their own, since a guide may have another prompt for queries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.precision import Precision
from mnrl_job.embedding.prompts import Kind
from mnrl_job.records import Pairs
from mnrl_job.runtime.tables import read_table, take
from mnrl_job.training.batches import Plan

EMBEDDED_AT_ONCE = 2**18
# Where in the scratch of an attempt they are.
FOLDER = "guide"


@dataclass(frozen=True, slots=True)
class Guide:
    """Embeddings by number of text, in two files, and for each row of the pairs the numbers of its texts.

    Attributes:
        queries: of distinct anchors, of unit length, shape (anchors, dimension).
        documents: of distinct documents, of unit length, shape (documents, dimension).
        numbers: of the texts of each column, shape (columns, rows); -1 in rows that were not asked for.
    """

    queries: NDArray[np.float32]
    documents: NDArray[np.float32]
    numbers: NDArray[np.int64]

    def of(self, asked: Sequence[tuple[int, list[int]]]) -> torch.Tensor:
        """Of the texts in some columns and rows there, the same number in each; shape (rows, asked, dimension)."""
        sides = ((self.documents if column else self.queries, self.numbers[column, rows]) for column, rows in asked)
        return torch.from_numpy(np.stack([side[numbers] for side, numbers in sides], axis=1))


def embed_by_guide(model: SentenceTransformer, pairs: Pairs, plan: Plan, precision: Precision, folder: Path) -> None:
    """Write what `read_guide` reads, for the rows of a plan; every rank must ask.

    Args:
        model: the guide, on this rank's device.
        pairs: the training pairs.
        plan: row numbers, shape (steps, batch size).
        precision: the arithmetic of the guide.
        folder: one of this machine.

    Raises:
        Preempted: this process was asked to stop.
    """
    state = PartialState()
    if state.is_local_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    rows = np.unique(plan)
    table = read_table(pairs.path)
    numbers = np.full((len(pairs.columns), pairs.rows), -1, dtype=np.int64)
    anchor, *documents = pairs.columns
    kinds: dict[Kind, list[str]] = {"query": [anchor], "document": documents}
    column = 0
    for kind, names in kinds.items():
        distinct, numbers_of = _number([table[name] for name in names], rows)
        numbers[column : column + len(names), rows] = numbers_of
        column += len(names)
        _write(model, distinct, kind, precision, folder)
    if state.is_local_main_process:
        np.save(folder / "numbers.npy", numbers)
    state.wait_for_everyone()


def read_guide(folder: Path) -> Guide:
    """Map what `embed_by_guide` wrote."""
    return Guide(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("query", "document", "numbers")))


def _number(columns: Sequence[pa.ChunkedArray], rows: NDArray[np.int64]) -> tuple[pa.ChunkedArray, NDArray[np.int64]]:
    """The distinct texts of some rows, and for each row the numbers of its texts, shape (columns, rows)."""
    chosen = [take(column, rows) for column in columns]
    encoded = pa.chunked_array([chunk for column in chosen for chunk in column.chunks]).dictionary_encode()
    chunks = encoded.unify_dictionaries().chunks
    numbers = np.concatenate([np.asarray(chunk.indices) for chunk in chunks])
    return pa.chunked_array([chunks[0].dictionary]), numbers.reshape(len(columns), -1)


def _write(model: SentenceTransformer, texts: pa.ChunkedArray, kind: Kind, precision: Precision, folder: Path) -> None:
    """Embed texts, some at a time, into a file that only the first worker of this machine writes."""
    shape = (len(texts), int(model.get_embedding_dimension() or 0))
    file = None
    if PartialState().is_local_main_process:
        file = np.lib.format.open_memmap(folder / f"{kind}.npy", "w+", np.float32, shape)
    for part in range(math.ceil(len(texts) / EMBEDDED_AT_ONCE)):
        some = slice(part * EMBEDDED_AT_ONCE, min((part + 1) * EMBEDDED_AT_ONCE, len(texts)))
        tokens = folder / f"{kind}-tokens-{part}.arrow"
        found = encode(model, texts.slice(some.start, some.stop - some.start), kind, precision, tokens)
        if file is not None:
            file[some] = found.cpu().numpy()
    if file is not None:
        file.flush()
