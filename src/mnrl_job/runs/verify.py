"""Is a published run still what was published? Marker, manifest, every hash."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnrl_job.errors import DataError, NotFound
from mnrl_job.runs.publish import MANIFEST, MARKER, PRESERVED
from mnrl_job.storage import Entry, LocalStore, Store
from mnrl_job.storage.base import read_bytes
from mnrl_job.storage.transfer import download
from mnrl_job.system.files import sha256_of
from mnrl_job.system.logs import warn


def recheck(run: Store, scratch: Path) -> Path:
    """Compare every file of a run with its manifest.

    Args:
        run: the run.
        scratch: where a remote run's files are fetched to.

    Returns:
        The folder that holds the run's files.

    Raises:
        NotFound: there is no run, or it was never finished.
        DataError: a file is missing or differs; each is named.
    """
    manifest = _manifest(run)
    files: dict[str, Any] = manifest["files"]
    there = {entry.key: entry for entry in run.list_objects() if not entry.key.startswith(PRESERVED)}
    for name in sorted(there.keys() - files.keys() - {MANIFEST, MARKER}):
        warn(f"{name} is not in the manifest; somebody added it")
    problems = [f"{name}: is missing" for name in files if name not in there]
    sizes = {name: facts["bytes"] for name, facts in files.items() if name in there}
    problems += [
        f"{name}: has {there[name].size} bytes, the manifest says {size}"
        for name, size in sizes.items()
        if there[name].size != size
    ]
    whole = [there[name] for name, size in sizes.items() if there[name].size == size]
    folder = _here(run, whole, scratch)
    for entry in whole:
        found, told = sha256_of([folder / entry.key]), files[entry.key]["sha256"]
        if found != told:
            problems.append(f"{entry.key}: has SHA-256 {found}, the manifest says {told}")
    if problems:
        raise DataError(
            f"{run.label} is not what was published:\n" + "\n".join(problems) + "\nrestore these files or train again"
        )
    return folder


def _manifest(run: Store) -> dict[str, Any]:
    marker, raw = read_bytes(run, MARKER), read_bytes(run, MANIFEST)
    if marker is None:
        what = "it was never finished" if raw or any(run.list_objects()) else "nothing is there"
        raise NotFound(f"{run.label}: no {MARKER}, {what}; give the URI of a finished run (OUTPUT/RUN_ID)")
    try:
        manifest: dict[str, Any] = json.loads(raw or b"")
        sealed = json.loads(marker)["manifest_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run.label}: {MANIFEST} or {MARKER} is missing or damaged; restore it") from error
    found = hashlib.sha256(raw or b"").hexdigest()
    if found != sealed:
        raise DataError(f"{run.label}: {MANIFEST} has SHA-256 {found}, {MARKER} says {sealed}; restore it")
    return manifest


def _here(run: Store, entries: Sequence[Entry], scratch: Path) -> Path:
    if isinstance(run, LocalStore):
        return run.root
    download(run, entries, scratch)
    return scratch
