"""Verifies the files of a published run: marker, manifest, the size and hash of each file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mnrl_job.errors import DataError, NotFound
from mnrl_job.runs.publish import MARKER, PRESERVED
from mnrl_job.storage import LocalStore, Store
from mnrl_job.storage.base import read_bytes
from mnrl_job.storage.manifest import MANIFEST, find_damage, find_wrong_size, parse_manifest
from mnrl_job.storage.transfer import download
from mnrl_job.system.logs import warn


def verify_run(store: Store, scratch: Path, prefixes: tuple[str, ...] = ("",), others_by_size: bool = False) -> Path:
    """Compare every file of a run with its manifest. A remote run is downloaded to `scratch`. Returns the run's folder.

    Only files whose names start with one of `prefixes` are read; `others_by_size`: the sizes of all are compared.

    Raises:
        NotFound: there is no run, or it was never finished.
        DataError: a file is missing or differs; each is named.
    """
    recorded = read_run_manifest(store)["files"]
    entries = {entry.key: entry for entry in store.list_objects() if not entry.key.startswith(PRESERVED)}
    for name in sorted(entries.keys() - recorded.keys() - {MANIFEST, MARKER}):
        warn(f"{name} is not in the manifest; it was added after publishing")
    files = {name: record for name, record in recorded.items() if name.startswith(prefixes)}
    if isinstance(store, LocalStore):
        folder = store.root
    else:
        folder = scratch
        download(store, [entries[name] for name in files if name in entries], folder)
    damage = list(find_damage(folder, files))
    if others_by_size:
        sizes = {name: entry.size for name, entry in entries.items()}
        others = (
            (name, find_wrong_size(sizes.get(name), recorded[name])) for name in sorted(recorded.keys() - files.keys())
        )
        damage += [f"{name}: {problem}" for name, problem in others if problem]
    if damage:
        raise DataError(
            f"{store.label} is not what was published:\n" + "\n".join(damage) + "\nrestore these files or make it anew"
        )
    return folder


def read_run_manifest(store: Store) -> dict[str, Any]:
    marker, content = read_bytes(store, MARKER), read_bytes(store, MANIFEST)
    if marker is None:
        problem = "it was never finished" if content or any(store.list_objects()) else "nothing is there"
        raise NotFound(f"{store.label}: no {MARKER}, {problem}; give the URI of a finished run (OUTPUT/RUN_ID)")
    manifest = parse_manifest(content)
    try:
        expected = json.loads(marker)["manifest_sha256"]
    except (ValueError, KeyError, TypeError):
        expected = None
    if manifest is None or content is None or expected is None:
        raise DataError(f"{store.label}: {MANIFEST} or {MARKER} is missing or damaged; restore it")
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise DataError(f"{store.label}: {MANIFEST} has SHA-256 {digest}, {MARKER} says {expected}; restore it")
    return manifest
