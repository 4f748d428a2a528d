"""A guide model's embeddings of the training texts: computed once before training, then looked up by row.

The guide is frozen, so each distinct text is embedded once, split over all ranks. The embeddings are memory-mapped
files; anchors have a file of their own, since a guide may have another prompt for queries.
"""

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
from mnrl_job.embedding.embedding_files import encode_to_file
from mnrl_job.embedding.precision import Precision
from mnrl_job.embedding.prompts import Kind
from mnrl_job.system.local_rank import is_local_main_process

# Folder of the embeddings inside an attempt's scratch folder.
FOLDER = "guide"


@dataclass(frozen=True, slots=True)
class Guide:
    """Embeddings of distinct texts, and for each column of the pairs the index of each text among them.

    Attributes:
        queries: of distinct anchors, of unit length, shape (anchors, dimension).
        documents: of distinct documents, of unit length, shape (documents, dimension).
        indices: of the texts of each column, shape (texts,); -1 for those that are not in the plan.
    """

    queries: NDArray[np.float32]
    documents: NDArray[np.float32]
    indices: tuple[NDArray[np.int64], ...]

    def embeddings(self, column_texts: Sequence[tuple[int, NDArray[np.int64]]]) -> torch.Tensor:
        """Embeddings of texts given by column and index there, column by column; shape (texts, dimension)."""
        parts = [
            (self.documents if column else self.queries)[self.indices[column][texts]] for column, texts in column_texts
        ]
        return torch.from_numpy(np.concatenate(parts))


def embed_by_guide(model: SentenceTransformer, pairs: Pairs, plan: Plan, precision: Precision, folder: Path) -> None:
    """Write the files of `read_guide` for the rows of a plan, shape (steps, batch size), on this machine. Collective.

    Raises:
        Preempted: this process was asked to stop.
    """
    state = PartialState()
    if is_local_main_process():
        folder.mkdir(parents=True, exist_ok=True)
    rows = distinct_dense(plan)
    table = read_table(pairs.path)
    selected = dict.fromkeys(pairs.columns, rows)
    if "negatives" in selected:
        selected["negatives"] = positions(list_offsets(table["negatives"]), rows)
    anchor, *documents = pairs.columns
    kinds: dict[Kind, list[str]] = {"query": [anchor], "document": documents}
    for kind, names in kinds.items():
        distinct, indices = _deduplicate([texts_of(table, name) for name in names], [selected[name] for name in names])
        encode_to_file(model, distinct, kind, precision, folder / f"{kind}-tokens.arrow", folder / f"{kind}.npy")
        for name, column_indices in zip(names, indices, strict=True):
            if is_local_main_process():
                np.save(folder / f"{name}.npy", column_indices)
    state.wait_for_everyone()


def read_guide(folder: Path, columns: Sequence[str]) -> Guide:
    """Map the files of `embed_by_guide` for these columns."""
    queries, documents, *indices = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("query", "document", *columns)
    )
    return Guide(queries, documents, tuple(indices))


def _deduplicate(
    columns: Sequence[pa.ChunkedArray], selected: Sequence[NDArray[np.int64]]
) -> tuple[pa.ChunkedArray, list[NDArray[np.int64]]]:
    """The distinct texts among those selected from each column, and for each column the indices of its texts."""
    taken = [take(column, rows) for column, rows in zip(columns, selected, strict=True)]
    encoded = pa.chunked_array([chunk for column in taken for chunk in column.chunks]).dictionary_encode()
    chunks = encoded.unify_dictionaries().chunks
    codes = np.split(
        np.concatenate([np.asarray(chunk.indices) for chunk in chunks]), np.cumsum([*map(len, selected)])[:-1]
    )
    indices = [np.full(len(column), -1, dtype=np.int64) for column in columns]
    for column_indices, rows, column_codes in zip(indices, selected, codes, strict=True):
        column_indices[rows] = column_codes
    return pa.chunked_array([chunks[0].dictionary]), indices
