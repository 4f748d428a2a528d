"""Parquet: only the columns that are asked for are read and become Python objects."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mnrl_job.data.file_formats.common import Row, check_names
from mnrl_job.data.file_formats.opening import HEAD, packing, refuse_foreign
from mnrl_job.errors import DataError

ROWS_PER_BATCH = 10_000
MAGIC = b"PAR1"


def parquet_columns(path: Path) -> dict[str, bool]:
    """The columns by the schema, and whether each holds lists; none for a file without rows. No value is read."""
    check_parquet(path)
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        check_names(schema.names, str(path))
        return {field.name: _holds_lists(field.type) for field in schema} if file.metadata.num_rows else {}


def parquet_rows(path: Path, columns: Collection[str] | None) -> Iterator[Row]:
    """Yield each row, counted from 1, with those of the `columns` that the file has; all of them where None."""
    check_parquet(path)
    count = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        check_names(names, str(path))
        wanted = names if columns is None else [name for name in names if name in columns]
        for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=wanted):
            values = [_to_python(batch.column(name), f"{path}: the column {name}") for name in wanted]
            for index in range(batch.num_rows):
                count += 1
                yield count, {name: column[index] for name, column in zip(wanted, values, strict=True)}
        if count != file.metadata.num_rows:
            raise EOFError(f"only {count} of {file.metadata.num_rows} rows can be read")


def check_parquet(path: Path) -> None:
    """Refuse a file of another kind under this name.

    Raises:
        DataError: it tells what the file is.
    """
    with path.open("rb") as handle:
        head = handle.read(HEAD)
    if packing(head):
        raise DataError(f"{path}: the whole file is compressed; decompress it, Parquet compresses its own columns")
    refuse_foreign(path, head, MAGIC)


def _holds_lists(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_large_list_view)
    return pa.types.is_fixed_size_list(kind) or any(is_list(kind) for is_list in tests)


def _to_python(column: pa.Array, what: str) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise DataError(f"{what} is of type {column.type}, with values that cannot be read: {error}") from error
