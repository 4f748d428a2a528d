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

from mnrl_job.batching.planning import Plan
from mnrl_job.data.integer_sets import distinct_dense
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import positions
from mnrl_job.data.tables import list_offsets, read_table, take, texts_of
from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.precision import Precision
from mnrl_job.embedding.prompts import Kind
from mnrl_job.system.local_rank import is_local_main_process

EMBEDDED_AT_ONCE = 2**18
# Where in the scratch of an attempt they are.
FOLDER = "guide"


@dataclass(frozen=True, slots=True)
class Guide:
    """Embeddings by number of text, in two files, and for each column of the pairs the numbers of its texts.

    Attributes:
        queries: of distinct anchors, of unit length, shape (anchors, dimension).
        documents: of distinct documents, of unit length, shape (documents, dimension).
        numbers: of the texts of each column, shape (texts,); -1 for those that were not asked for.
    """

    queries: NDArray[np.float32]
    documents: NDArray[np.float32]
    numbers: tuple[NDArray[np.int64], ...]

    def of(self, asked: Sequence[tuple[int, NDArray[np.int64]]]) -> torch.Tensor:
        """Of texts by their columns and numbers there, those of one column after another; shape (texts, dimension)."""
        sides = ((self.documents if column else self.queries, self.numbers[column][texts]) for column, texts in asked)
        return torch.from_numpy(np.concatenate([side[numbers] for side, numbers in sides]))


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
    if is_local_main_process():
        folder.mkdir(parents=True, exist_ok=True)
    rows = distinct_dense(plan)
    table = read_table(pairs.path)
    chosen = dict.fromkeys(pairs.columns, rows)
    if "negatives" in chosen:
        chosen["negatives"] = positions(list_offsets(table["negatives"]), rows)
    anchor, *documents = pairs.columns
    kinds: dict[Kind, list[str]] = {"query": [anchor], "document": documents}
    for kind, names in kinds.items():
        distinct, numbers = _number([texts_of(table, name) for name in names], [chosen[name] for name in names])
        _write(model, distinct, kind, precision, folder)
        for name, of_column in zip(names, numbers, strict=True):
            if is_local_main_process():
                np.save(folder / f"{name}.npy", of_column)
    state.wait_for_everyone()


def read_guide(folder: Path, columns: Sequence[str]) -> Guide:
    """Map what `embed_by_guide` wrote of these columns."""
    queries, documents, *numbers = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("query", "document", *columns)
    )
    return Guide(queries, documents, tuple(numbers))


def _number(
    columns: Sequence[pa.ChunkedArray], chosen: Sequence[NDArray[np.int64]]
) -> tuple[pa.ChunkedArray, list[NDArray[np.int64]]]:
    """The distinct ones of the texts chosen from each column, and for each column the numbers of its texts."""
    taken = [take(column, some) for column, some in zip(columns, chosen, strict=True)]
    encoded = pa.chunked_array([chunk for column in taken for chunk in column.chunks]).dictionary_encode()
    chunks = encoded.unify_dictionaries().chunks
    found = np.split(
        np.concatenate([np.asarray(chunk.indices) for chunk in chunks]), np.cumsum([*map(len, chosen)])[:-1]
    )
    numbers = [np.full(len(column), -1, dtype=np.int64) for column in columns]
    for of_column, some, these in zip(numbers, chosen, found, strict=True):
        of_column[some] = these
    return pa.chunked_array([chunks[0].dictionary]), numbers


def _write(model: SentenceTransformer, texts: pa.ChunkedArray, kind: Kind, precision: Precision, folder: Path) -> None:
    """Embed texts, some at a time, into a file that only the first worker of this machine writes."""
    shape = (len(texts), int(model.get_embedding_dimension() or 0))
    file = None
    if is_local_main_process():
        file = np.lib.format.open_memmap(folder / f"{kind}.npy", "w+", np.float32, shape)
    for part in range(math.ceil(len(texts) / EMBEDDED_AT_ONCE)):
        some = slice(part * EMBEDDED_AT_ONCE, min((part + 1) * EMBEDDED_AT_ONCE, len(texts)))
        tokens = folder / f"{kind}-tokens-{part}.arrow"
        found = encode(model, texts.slice(some.start, some.stop - some.start), kind, precision, tokens)
        if file is not None:
            file[some] = found.cpu().numpy()
    if file is not None:
        file.flush()
