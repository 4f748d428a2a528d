"""Parquet: only the requested columns are read."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mnrl_job.data.file_formats.common import Row, check_names
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


def parquet_rows(path: Path, columns: Collection[str] | None) -> Iterator[Row]:
    """Yield each row, counted from 1, with the given columns as far as they exist; None for all columns."""
    check_parquet(path)
    count = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        check_names(names, str(path))
        selected = names if columns is None else [name for name in names if name in columns]
        for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=selected):
            values = [_to_python(batch.column(name), f"{path}: the column {name}") for name in selected]
            for index in range(batch.num_rows):
                count += 1
                yield count, {name: column[index] for name, column in zip(selected, values, strict=True)}
        if count != file.metadata.num_rows:
            raise EOFError(f"only {count} of {file.metadata.num_rows} rows can be read")


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
