"""`manifest.json`: size and SHA-256 of every file of a checkpoint or a run, written after all of them.

A checkpoint's manifest also has a SHA-256 of itself; that of a run's manifest is in `_SUCCESS`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from mnrl_job.system.files import atomic_write, sha256_of
from mnrl_job.system.json_text import dumps, sha256_of_json

MANIFEST = "manifest.json"


class FileRecord(TypedDict):
    """A file in a manifest."""

    bytes: int
    sha256: str


def format_manifest(facts: Mapping[str, Any], files: Mapping[str, FileRecord]) -> bytes:
    """The content of a manifest over `files`, by their paths relative to it."""
    return dumps({**facts, "files": files}, indent=2).encode()


def parse_manifest(content: bytes | None) -> dict[str, Any] | None:
    """The content of a manifest; None where it is missing or damaged."""
    try:
        manifest: dict[str, Any] = json.loads(content or b"")
        files = all(isinstance(file["bytes"], int) and file["sha256"] for file in manifest["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if files else None


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of the files in a folder, atomically."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files: dict[str, FileRecord] = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of([path])}
        for path in paths
    }
    digest = sha256_of_json({**facts, "files": files})
    atomic_write(folder / MANIFEST, format_manifest({**facts, "sha256": digest}, files))


def read_valid_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, without its own SHA-256; None where a file, or the manifest, is missing or damaged."""
    try:
        manifest = parse_manifest((folder / MANIFEST).read_bytes())
        if manifest is None or manifest.pop("sha256", None) != sha256_of_json(manifest):
            return None
        return None if any(find_damage(folder, manifest["files"])) else manifest
    except OSError:
        return None


def find_damage(folder: Path, files: Mapping[str, FileRecord]) -> Iterator[str]:
    """How the files of a folder differ from their manifest, one message each."""
    for name, expected in files.items():
        path = folder / name
        if problem := find_wrong_size(path.stat().st_size if path.is_file() else None, expected):
            yield f"{name}: {problem}"
        elif (digest := sha256_of([path])) != expected["sha256"]:
            yield f"{name}: has SHA-256 {digest}, the manifest says {expected['sha256']}"


def find_wrong_size(size: int | None, expected: FileRecord) -> str:
    """How a file's size, None if it is missing, differs from the manifest; empty if it does not."""
    if size is None:
        return "is missing"
    return "" if size == expected["bytes"] else f"has {size} bytes, the manifest says {expected['bytes']}"


def manifest_files(folder: Path) -> list[str]:
    """The names of all files in a manifest, its own last.

    Raises:
        FileNotFoundError: there is no manifest.
    """
    return [*json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"], MANIFEST]
