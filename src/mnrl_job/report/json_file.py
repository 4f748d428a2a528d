"""JSON files for people and programs, without secrets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnrl_job.system.json_text import dumps
from mnrl_job.system.secrets import redacted


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON for people and programs."""
    path.write_text(dumps(redacted(content), indent=2, ensure_ascii=False), encoding="utf-8")
