"""Pass frozen records between processes as JSON files."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from mnrl_job.system.json_text import dumps

Record = TypeVar("Record")


def write_record(path: Path, record: Any) -> None:
    """Write a record, or a tuple of them, as JSON, atomically. Secrets in a pydantic model are masked."""
    write_text(path, dumps(to_jsonable_python(record), ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Write a file atomically for other processes, without flushing it to disk."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_record(path: Path, kind: type[Record]) -> Record:
    return TypeAdapter(kind).validate_json(path.read_bytes())


def relocated(record: Record, move: Callable[[Path], Path]) -> Record:
    """The same record with other paths, also in the records and tuples in it."""
    value: Any = record
    if isinstance(value, Path):
        value = move(value)
    elif isinstance(value, tuple):
        value = tuple(relocated(item, move) for item in value)
    elif is_dataclass(value) and not isinstance(value, type):
        value = replace(value, **{field.name: relocated(getattr(value, field.name), move) for field in fields(value)})
    return value  # type: ignore[no-any-return]
