"""Arrow files, the data of record: written as streams, memory-mapped back."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# The group of a missing negative, or of one that cannot be trusted: it is nobody's negative.
NOBODY = -1


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow stream, the format `datasets.Dataset.from_file` maps."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_columns(path: Path, **columns: Iterable[Any]) -> None:
    """Write columns of equal length."""
    write_table(path, pa.table({name: list(values) for name, values in columns.items()}))


def read_table(path: Path) -> pa.Table:
    """Map a table into memory; its rows cost nothing until they are touched."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).read_all()


def take(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> pa.ChunkedArray:
    """The texts of some rows, in the order asked for.

    Piece by piece: Arrow's own `take` first joins all pieces of a column into one, which needs as much memory again,
    and fails where they hold more than 2 GiB of text.
    """
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    starts = np.cumsum([0, *map(len, column.chunks)])
    found = []
    for piece, (start, stop) in zip(column.chunks, pairwise(starts), strict=True):
        some = ascending[slice(*np.searchsorted(ascending, (start, stop)))]
        if len(some):
            found.append(piece.cast(pa.large_string()).take(some - start))
    return pa.chunked_array(found, pa.large_string()).take(np.argsort(order))


def write_labels(path: Path, groups: NDArray[np.int64]) -> None:
    """Write what goes with each row through training: its number and the groups of its texts, shape (rows, columns)."""
    labels = np.column_stack([np.arange(len(groups)), groups])
    column = pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), labels.shape[1])
    write_table(path, pa.table({"label": column}))


def read_groups(path: Path) -> NDArray[np.int64]:
    """The groups of `write_labels`, shape (rows, columns), mapped into memory."""
    column = read_table(path)["label"].combine_chunks()
    return np.asarray(column.flatten()).reshape(-1, column.type.list_size)[:, 1:]
