"""From the staging folder to the output: every file read back, its hash in the manifest, `_SUCCESS` last.

The same order on every store, held by one publisher at a time (`runs/publish_lease.py`): clear what an unfinished
attempt left, create the files, read each byte back, create the manifest, create the marker. Nothing is written in
place of something else.
"""

import json
from pathlib import Path
from typing import Any, TypedDict

from mnrl_job.errors import DataError, JobError, SettingsError, StorageError
from mnrl_job.runs import publish_lease
from mnrl_job.runs.publish_lease import PublishLease
from mnrl_job.storage import Store, transfer
from mnrl_job.storage.base import read_bytes
from mnrl_job.storage.probe import PREFIX as PROBE
from mnrl_job.system.json_text import dumps
from mnrl_job.system.logs import warn
from mnrl_job.system.secrets import redacted
from mnrl_job.system.threads import parallel

MARKER = "_SUCCESS"
MANIFEST = "manifest.json"
FAILURE = "failure.json"
# What an attempt finds at the output and does not touch.
CHECKPOINTS = "checkpoints/"
PRESERVED = (f"{publish_lease.FOLDER}/", CHECKPOINTS, FAILURE)


class FileFacts(TypedDict):
    """One file in the manifest."""

    bytes: int
    sha256: str


def already_published(run: Store, settings_hash: str) -> dict[str, Any] | None:
    """The manifest of this run where it stands there complete, made with the same settings.

    Raises:
        SettingsError: it is complete, but was made with other settings; a published run is never overwritten.
        DataError: there is a marker, but no manifest that can be read.
    """
    if run.stat(MARKER) is None:
        return None
    try:
        manifest: dict[str, Any] = json.loads(read_bytes(run, MANIFEST) or b"")
        recorded = manifest["settings_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{run.label}: there is {MARKER}, but no readable {MANIFEST}; somebody changed this run: "
            "restore it or choose another MNRL_RUN_ID"
        ) from error
    if recorded != settings_hash:
        raise SettingsError(
            f"{run.label} was published with other settings; it is never overwritten: choose another MNRL_RUN_ID"
        )
    return manifest


def remove_leftovers(run: Store) -> None:
    """Remove what attempts that were killed around `_SUCCESS` left beside a finished run.

    This needs no claim: whoever still waits for one will find the run finished and write nothing.
    """
    run.remove_incomplete()
    for entry in (
        *run.list_objects(f"{publish_lease.FOLDER}/"),
        *run.list_objects(PROBE),
        *run.list_objects(CHECKPOINTS),
    ):
        run.delete(entry.key)


def clear_unfinished(run: Store, claim: PublishLease) -> None:
    """Remove what an earlier attempt left unfinished, also uploads that nobody will complete."""
    with claim.guard_write():
        run.remove_incomplete()
    stale = [entry.key for entry in run.list_objects() if not entry.key.startswith(PRESERVED)]

    def remove(key: str) -> None:
        with claim.guard_write():
            run.delete(key)

    parallel(remove, stale)


def upload(staging: Path, run: Store, claim: PublishLease, done: dict[str, FileFacts]) -> dict[str, FileFacts]:
    """Create the staged files that are not yet `done` at the output, and read them back.

    Returns:
        Size and SHA-256 of each file by its path in the run.

    Raises:
        JobError: the output cannot be written, or does not give back what was written.
    """
    staged = {path.relative_to(staging).as_posix(): path for path in sorted(staging.rglob("*")) if path.is_file()}
    fresh = {name: path for name, path in staged.items() if name not in done}
    digests = transfer.upload(run, fresh, claim.guard_write)
    return done | {name: {"bytes": path.stat().st_size, "sha256": digests[name]} for name, path in fresh.items()}


def write_manifest(run: Store, claim: PublishLease, staging: Path, manifest: dict[str, object]) -> str:
    """Publish the manifest. Returns its SHA-256."""
    path = staging / MANIFEST
    path.write_text(dumps(manifest, indent=2), encoding="utf-8")
    return transfer.upload(run, {MANIFEST: path}, claim.guard_write)[MANIFEST]


def commit_run(run: Store, claim: PublishLease, staging: Path, manifest: dict[str, object]) -> None:
    """Publish the manifest, then `_SUCCESS`: from here on the run is complete.

    Raises:
        StorageError: another attempt got there first, or the output cannot be written.
    """
    marker = dumps({"manifest_sha256": write_manifest(run, claim, staging, manifest)}).encode()
    for _ in range(transfer.TRIES):
        with claim.guard_write():
            run.remove_incomplete()
            run.delete(FAILURE)
            created = run.create(MARKER, marker)
        if read_bytes(run, MARKER) == marker:
            return
        if created is None:
            raise StorageError(f"{run.label}: another attempt has published this run; start again to see which")
        with claim.guard_write():
            run.delete(MARKER)
    raise StorageError(f"{run.label}: {MARKER} never reads back as it was sent; mend the storage, then start again")


def record_failure(run: Store, failure: JobError, where: dict[str, object]) -> None:
    """Leave `failure.json` beside an unfinished run, never beside a complete one; `where` in the run it happened.

    Where it cannot be written, that is often the very failure to tell; it must not take that one's place.
    """
    try:
        if run.stat(MARKER) is None:
            run.write(FAILURE, dumps(redacted(failure.as_dict() | where | failure.details), indent=2).encode())
            if run.stat(MARKER) is not None:  # another attempt finished meanwhile
                run.delete(FAILURE)
    except JobError as error:
        if not str(failure).startswith(run.label):
            warn(f"cannot write {FAILURE}: {error}")
