"""From the staging folder to the output: every file whole, its hash in the manifest, `_SUCCESS` last."""

import json
from pathlib import Path
from typing import TypedDict

from mnrl_job.errors import JobError, SettingsError, StorageError
from mnrl_job.runtime.files import copy_whole, sha256_of, storage_error, write_whole
from mnrl_job.runtime.logs import warn

MARKER = "_SUCCESS"
MANIFEST = "manifest.json"
FAILURE = "failure.json"


class FileFacts(TypedDict):
    """One file in the manifest."""

    bytes: int
    sha256: str


def already_published(run: Path, settings_hash: str) -> bool:
    """Whether this run stands there complete, made with the same settings.

    Raises:
        SettingsError: it is complete, but was made with other settings; a published run is never overwritten.
    """
    if not (run / MARKER).is_file():
        return False
    recorded = json.loads((run / MANIFEST).read_text(encoding="utf-8"))["settings_sha256"]
    if recorded != settings_hash:
        raise SettingsError(f"MNRL_RUN_ID: {run} was published with other settings; choose another run id")
    return True


def upload(staging: Path, run: Path, done: dict[str, FileFacts]) -> dict[str, FileFacts]:
    """Copy the staged files that are not yet `done` and read them back.

    Returns:
        Size and SHA-256 of each file by its path in the run.

    Raises:
        JobError: the output cannot be written, or does not give back what was written.
    """
    try:
        names = sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file())
        return done | {name: _copy(staging / name, run / name) for name in names if name not in done}
    except OSError as error:
        raise storage_error(error, f"MNRL_OUTPUT: cannot write to {run}") from error


def seal(run: Path, files: dict[str, FileFacts], settings_hash: str, inputs: dict[str, str]) -> None:
    """Write the manifest, then `_SUCCESS`: from here on the run is complete.

    Args:
        run: the run's folder at the output; its name is the run id.
        files: what `upload` returned.
        settings_hash: SHA-256 over the settings.
        inputs: SHA-256 of each input by name.

    Raises:
        JobError: the output cannot be written.
    """
    manifest = {"run_id": run.name, "attempt": 1, "settings_sha256": settings_hash, "inputs": inputs, "files": files}
    try:
        write_whole(run / MANIFEST, json.dumps(manifest, indent=2))
        (run / FAILURE).unlink(missing_ok=True)
        write_whole(run / MARKER, "")
    except OSError as error:
        raise storage_error(error, f"MNRL_OUTPUT: cannot write to {run}") from error


def _copy(source: Path, target: Path) -> FileFacts:
    digest = copy_whole(source, target)
    if sha256_of([target]) != digest:
        raise StorageError(f"{target} does not read back as it was written; mend the disk or mount, then start again")
    return {"bytes": source.stat().st_size, "sha256": digest}


def record_failure(run: Path, failure: JobError) -> None:
    """Leave `failure.json` in the run's folder, unless the run stands there complete.

    Where the folder cannot be written, that is often the very failure to tell; it must not take that one's place.
    """
    if (run / MARKER).exists():
        return
    try:
        write_whole(run / FAILURE, json.dumps(failure.as_dict(), indent=2))
    except OSError as error:
        warn(f"cannot write {run / FAILURE}: {error.strerror or error}")
