"""Arrow files: written as streams, read as memory maps."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mnrl_job.data.ragged import Ragged, no_values, offsets_of

# The group of a negative that is not used as one, because it is missing or contradicts a positive.
NO_GROUP = -1


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow stream, the format `datasets.Dataset.from_file` maps."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_columns(path: Path, **columns: Iterable[Any]) -> None:
    """Write columns of equal length."""
    write_table(path, pa.table({name: list(values) for name, values in columns.items()}))


def read_table(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).read_all()


def texts_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """The texts of a column, flattened if it is a column of lists. Nothing is copied."""
    column = table[name]
    if not pa.types.is_list(column.type):
        return column
    return pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)


def list_offsets(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """The offsets of each list in the flattened column, shape (rows + 1,)."""
    return offsets_of(np.asarray(pc.list_value_length(column)))


def take(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> pa.ChunkedArray:
    """The texts of the given rows, in this order.

    Chunk by chunk: Arrow's own `take` first concatenates all chunks of a column, which needs as much memory again, and
    fails for more than 2 GiB of text.
    """
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    starts = np.cumsum([0, *map(len, column.chunks)])
    taken = []
    for chunk, (start, stop) in zip(column.chunks, pairwise(starts), strict=True):
        rows_of_chunk = ascending[slice(*np.searchsorted(ascending, (start, stop)))]
        if len(rows_of_chunk):
            taken.append(chunk.cast(pa.large_string()).take(rows_of_chunk - start))
    return pa.chunked_array(taken, pa.large_string()).take(np.argsort(order))


@dataclass(frozen=True, slots=True)
class SelectedTexts:
    """The texts of some rows of a column, in this order, taken a slice at a time."""

    column: pa.ChunkedArray
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def slice(self, start: int, length: int) -> pa.ChunkedArray:
        return take(self.column, self.rows[start : start + length])


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of `count` rows, from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def write_labels(path: Path, groups: NDArray[np.int64], negatives: Ragged | None = None) -> None:
    """Write of each row its number, the groups of its anchor and positive, shape (rows, 2), and of its negatives."""
    labels = np.column_stack([np.arange(len(groups)), groups])
    columns = {"label": pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), labels.shape[1])}
    if negatives is not None:
        columns["negatives"] = pa.LargeListArray.from_arrays(
            pa.array(negatives.offsets), pa.array(negatives.values, pa.int64())
        )
    write_table(path, pa.table(columns))


def read_groups(path: Path) -> NDArray[np.int64]:
    """The groups of each row's anchor and positive, shape (rows, 2), mapped into memory."""
    column = read_table(path)["label"].combine_chunks()
    return np.asarray(column.flatten()).reshape(-1, column.type.list_size)[:, 1:]


def read_negatives(path: Path) -> Ragged:
    """The groups of each row's negatives, mapped into memory."""
    table = read_table(path)
    if "negatives" not in table.column_names:
        return no_values(len(table))
    column = table["negatives"].combine_chunks()
    return Ragged(np.asarray(column.values), np.asarray(column.offsets))
