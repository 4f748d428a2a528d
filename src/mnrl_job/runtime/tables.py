"""Arrow files, the data of record: written as streams, memory-mapped back."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa


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
