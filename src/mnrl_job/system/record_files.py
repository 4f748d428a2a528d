"""Pass frozen records between processes as JSON files."""

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
