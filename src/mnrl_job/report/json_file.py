"""JSON files without secrets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnrl_job.system.json_text import dumps
from mnrl_job.system.secrets import redacted


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON with secrets redacted."""
    path.write_text(dumps(redacted(value), indent=2, ensure_ascii=False), encoding="utf-8")
