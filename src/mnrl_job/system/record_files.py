"""Pass frozen records between processes as JSON files."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter

from mnrl_job.system.json_text import dumps

Record = TypeVar("Record")


def write_record(path: Path, record: Any) -> None:
    """Write a record as JSON, atomically. Secrets in a pydantic model are masked."""
    write_text(path, dumps(asdict(record), default=_as_json, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Write a file atomically for other processes, without flushing it to disk."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read a record that `write_record` wrote."""
    return TypeAdapter(kind).validate_json(path.read_bytes())


def _as_json(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
