"""Publishes the staging folder: every file read back, its hash in the manifest, `_SUCCESS` last.

The order is the same on every store, under a lease (`runs/publish_lease.py`): remove the files of an unfinished
attempt, create the files, read each back, create the manifest, create the marker. No file is overwritten.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mnrl_job.errors import DataError, JobError, SettingsError, StorageError
from mnrl_job.runs import publish_lease
from mnrl_job.runs.publish_lease import PublishLease, acquire_lease
from mnrl_job.storage import Store, transfer
from mnrl_job.storage.base import read_bytes
from mnrl_job.storage.manifest import MANIFEST, FileRecord, format_manifest, parse_manifest
from mnrl_job.storage.probe import PREFIX as PROBE
from mnrl_job.system.json_text import dumps
from mnrl_job.system.logs import warn
from mnrl_job.system.secrets import redacted
from mnrl_job.system.threads import parallel

MARKER = "_SUCCESS"
FAILURE = "failure.json"
CHECKPOINTS = "checkpoints/"
# Not removed when an attempt publishes.
PRESERVED = (f"{publish_lease.FOLDER}/", CHECKPOINTS, FAILURE)


def already_published(store: Store, settings_hash: str) -> dict[str, Any] | None:
    """The manifest of this run if it is complete and was made with the same settings; None if it is not complete.

    Raises:
        SettingsError: it is complete, but was made with other settings; a published run is never overwritten.
        DataError: there is a marker, but no valid manifest.
    """
    if store.stat(MARKER) is None:
        return None
    manifest = parse_manifest(read_bytes(store, MANIFEST))
    if manifest is None or "settings_sha256" not in manifest:
        raise DataError(
            f"{store.label}: there is {MARKER}, but no readable {MANIFEST}; this run was changed after publishing: "
            "restore it or choose another MNRL_RUN_ID"
        )
    if manifest["settings_sha256"] != settings_hash:
        raise SettingsError(
            f"{store.label} was published with other settings; it is never overwritten: choose another MNRL_RUN_ID"
        )
    return manifest


def publish_folder(store: Store, staging: Path, facts: Mapping[str, Any]) -> None:
    """Publish the staged files, the manifest, then `_SUCCESS`; nothing if another attempt was first.

    `facts` are entries of the manifest, among them `settings_sha256`.
    """
    with acquire_lease(store) as lease:
        if not already_published(store, facts["settings_sha256"]):
            clear_unfinished(store, lease)
            commit_run(store, lease, staging, facts, upload(staging, store, lease, {}))
    with suppress(JobError):  # it is complete; the next attempt removes what is left
        remove_leftovers(store)


def remove_leftovers(store: Store) -> None:
    """Remove what attempts that were killed around `_SUCCESS` left beside a complete run.

    This needs no lease: whoever waits for one will find the run complete and write nothing.
    """
    store.remove_incomplete()
    for prefix in (f"{publish_lease.FOLDER}/", PROBE, CHECKPOINTS):
        for entry in list(store.list_objects(prefix)):
            store.delete(entry.key)


def clear_unfinished(store: Store, lease: PublishLease) -> None:
    """Remove the files and incomplete uploads of an earlier, unfinished attempt."""
    with lease.guard_write():
        store.remove_incomplete()
    stale = [entry.key for entry in store.list_objects() if not entry.key.startswith(PRESERVED)]

    def remove(key: str) -> None:
        with lease.guard_write():
            store.delete(key)

    parallel(remove, stale)


def upload(staging: Path, store: Store, lease: PublishLease, done: dict[str, FileRecord]) -> dict[str, FileRecord]:
    """Create the staged files that are not in `done`, and read them back. Returns size and SHA-256 of all by path.

    Raises:
        JobError: the output cannot be written, or does not return what was written.
    """
    staged = {path.relative_to(staging).as_posix(): path for path in sorted(staging.rglob("*")) if path.is_file()}
    new = {name: path for name, path in staged.items() if name not in done}
    digests = transfer.upload(store, new, lease.guard_write)
    return done | {name: {"bytes": path.stat().st_size, "sha256": digests[name]} for name, path in new.items()}


def upload_manifest(
    store: Store, lease: PublishLease, staging: Path, facts: Mapping[str, Any], files: Mapping[str, FileRecord]
) -> str:
    """Publish the manifest. Returns its SHA-256."""
    path = staging / MANIFEST
    path.write_bytes(format_manifest(facts, files))
    return transfer.upload(store, {MANIFEST: path}, lease.guard_write)[MANIFEST]


def commit_run(
    store: Store, lease: PublishLease, staging: Path, facts: Mapping[str, Any], files: Mapping[str, FileRecord]
) -> None:
    """Publish the manifest, then `_SUCCESS`: from here on the run is complete.

    Raises:
        StorageError: another attempt was first, or the output cannot be written.
    """
    marker = dumps({"manifest_sha256": upload_manifest(store, lease, staging, facts, files)}).encode()
    for _ in range(transfer.ATTEMPTS):
        with lease.guard_write():
            store.remove_incomplete()
            store.delete(FAILURE)
            created = store.create(MARKER, marker)
        if read_bytes(store, MARKER) == marker:
            return
        if created is None:
            raise StorageError(f"{store.label}: another attempt has published this run; start again to see which")
        with lease.guard_write():
            store.delete(MARKER)
    raise StorageError(f"{store.label}: upload verification of {MARKER} failed; fix the storage, then start again")


def record_failure(store: Store, failure: JobError, where: dict[str, object]) -> None:
    """Write `failure.json` beside an unfinished run, never beside a complete one; `where` is its phase and step.

    An error while writing it is only logged: it must not hide the failure itself.
    """
    try:
        if store.stat(MARKER) is None:
            store.write(FAILURE, dumps(redacted(failure.as_dict() | where | failure.details), indent=2).encode())
            if store.stat(MARKER) is not None:  # another attempt finished meanwhile
                store.delete(FAILURE)
    except JobError as error:
        if not str(failure).startswith(store.label):
            warn(f"cannot write {FAILURE}: {error}")
