"""Frozen records and their way through JSON files between processes."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from mnrl_job.system.json_text import dumps

Record = TypeVar("Record")


def write_record(path: Path, record: Any) -> None:
    """Write a record as JSON, whole or not at all."""
    write_text(path, dumps(asdict(record), default=str, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Write a file between processes: a reader finds it whole or as it was. Nothing is flushed to the disk."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read back what `write_record` wrote."""
    return TypeAdapter(kind).validate_json(path.read_bytes())
