"""Parquet: only the requested columns are read."""

from collections.abc import Collection, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mnrl_job.data.file_formats.common import WHOLE, Row, Span, check_names
from mnrl_job.data.file_formats.opening import HEAD, detect_compression, refuse_foreign
from mnrl_job.errors import DataError

ROWS_PER_BATCH = 10_000
MAGIC = b"PAR1"


def parquet_columns(path: Path) -> dict[str, bool]:
    """The columns of the schema, and whether each holds lists; none for a file without rows. No values are read."""
    check_parquet(path)
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        check_names(schema.names, str(path))
        return {field.name: _holds_lists(field.type) for field in schema} if file.metadata.num_rows else {}


def split_row_groups(path: Path, size: int) -> list[Span]:
    """Spans of about `size` bytes each, or of a single row group."""
    check_parquet(path)
    with pq.ParquetFile(path) as file:
        rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    step = max(1, len(rows) * size // path.stat().st_size)
    firsts = list(accumulate(rows, initial=1))
    return [Span(start, firsts[start], min(step, len(rows) - start)) for start in range(0, len(rows), step)] or [WHOLE]


def parquet_rows(path: Path, columns: Collection[str] | None, span: Span = WHOLE) -> Iterator[Row]:
    """Yield each row, counted from 1, with the given columns as far as they exist; None for all columns."""
    check_parquet(path)
    row = span.first
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        metadata, names = file.metadata, file.schema_arrow.names
        check_names(names, str(path))
        selected = names if columns is None else [name for name in names if name in columns]
        stop = metadata.num_row_groups if span.count is None else span.start + span.count
        groups = list(range(span.start, stop))
        for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, row_groups=groups, columns=selected):
            values = [_to_python(batch.column(name), f"{path}: the column {name}") for name in selected]
            for index in range(batch.num_rows):
                yield row, {name: column[index] for name, column in zip(selected, values, strict=True)}
                row += 1
        is_last = stop == metadata.num_row_groups
        last = metadata.num_rows if is_last else span.first - 1 + sum(metadata.row_group(i).num_rows for i in groups)
        if row - 1 != last:
            raise EOFError(f"only {row - 1} of {last} rows can be read")


def check_parquet(path: Path) -> None:
    """Refuse a file of another kind with this suffix.

    Raises:
        DataError: naming the kind of file.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if detect_compression(head):
        raise DataError(f"{path}: the whole file is compressed; decompress it, Parquet compresses its own columns")
    refuse_foreign(path, head, MAGIC)


def _holds_lists(data_type: pa.DataType) -> bool:
    if pa.types.is_dictionary(data_type):
        data_type = data_type.value_type
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_large_list_view)
    return pa.types.is_fixed_size_list(data_type) or any(is_list(data_type) for is_list in tests)


def _to_python(column: pa.Array, what: str) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise DataError(f"{what} is of type {column.type}, with values that cannot be read: {error}") from error
