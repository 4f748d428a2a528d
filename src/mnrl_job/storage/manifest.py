"""A folder that is whole or does not count: a manifest, written last, has the SHA-256 of every file and of itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mnrl_job.system.files import atomic_write, sha256_of
from mnrl_job.system.json_text import dumps

MANIFEST = "manifest.json"


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest over the files that stand in a folder; it appears whole or not at all."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of([path])}
        for path in paths
    }
    content = facts | {"files": files}
    atomic_write(folder / MANIFEST, dumps(content | {"sha256": _digest(content)}, indent=2).encode())


def read_valid_manifest(folder: Path) -> dict[str, Any] | None:
    """The facts of a folder that is just as it was sealed; None for one that is not."""
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if facts.pop("sha256") != _digest(facts):
            return None
        for name, file in facts["files"].items():
            path = folder / name
            if path.stat().st_size != file["bytes"] or sha256_of([path]) != file["sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts


def manifest_files(folder: Path) -> list[str]:
    """The names of all files of a sealed folder, the manifest last.

    Raises:
        FileNotFoundError: it is not sealed.
    """
    return [*json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"], MANIFEST]


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(dumps(content, sort_keys=True).encode()).hexdigest()
