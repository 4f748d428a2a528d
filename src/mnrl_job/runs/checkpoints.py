"""Checkpoints in the run's folder: uploaded during training, the two newest retained, downloaded to resume."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.errors import DataError, HangTimeout, JobError, NotFound, Preempted, SettingsError, StorageError
from mnrl_job.launch.run_identity import RunIdentity
from mnrl_job.runs.attempt import Attempt
from mnrl_job.storage import LocalStore, Store, transfer
from mnrl_job.storage.manifest import MANIFEST, manifest_files, read_valid_manifest
from mnrl_job.system.files import link_or_copy
from mnrl_job.system.logs import log, warn
from mnrl_job.system.quantities import file_size

FOLDER = "checkpoints"
# Where workers write checkpoints, as `checkpoint-STEP`, in the scratch folder.
TRAINER = "trainer"
# Where the files of a checkpoint are linked during its upload: the trainer retains its two newest only.
UPLOADING = "uploading"
RETAINED = 2
POLL_SECONDS = 1.0
SECONDS_BETWEEN_HISTORY_UPDATES = 60.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A valid checkpoint on this machine."""

    folder: Path
    step: int


@contextmanager
def upload_checkpoints(attempt: Attempt) -> Iterator[Callable[[], None]]:
    """Upload the newest checkpoint while workers write them, and at the end; yields a function to do so at once."""
    uploader = _CheckpointUploader(attempt)
    ended = threading.Event()
    thread = threading.Thread(target=uploader.poll_until, args=(ended,), daemon=True)
    thread.start()

    def finish() -> None:
        if not ended.is_set():
            ended.set()
            thread.join()
            uploader.upload_newest()

    try:
        yield uploader.upload_newest
    except Preempted:
        finish()
        if uploader.step is None:
            raise
        raise Preempted(f"stopped on request; {attempt.rerun} to resume from step {uploader.step}") from None
    finally:
        finish()


class _CheckpointUploader:
    """`step` is that of the newest uploaded checkpoint, None before there is one."""

    def __init__(self, attempt: Attempt) -> None:
        self.step: int | None = None
        self._attempt = attempt
        self._trainer_folder = attempt.scratch / TRAINER
        self._warned_of_failure = False
        self._warned_of_slowness = False
        self._lock = threading.Lock()
        self._history_updated_at = time.monotonic()

    def poll_until(self, ended: threading.Event) -> None:
        while not ended.wait(POLL_SECONDS):
            self.upload_newest()
            if time.monotonic() - self._history_updated_at > SECONDS_BETWEEN_HISTORY_UPDATES:
                with suppress(JobError):  # a storage outage must not end this thread
                    self._update_history(self._attempt.store(attempts=1))

    def upload_newest(self) -> None:
        """Upload the newest checkpoint if it is not uploaded yet. Failed uploads are tried again the next time."""
        with self._lock:
            steps = sorted(int(path.parent.name.rpartition("-")[2]) for path in self._manifests())
            if not steps or steps[-1] == self.step:
                return
            held = self._attempt.scratch / UPLOADING
            try:
                self._upload(steps[-1], held)
            except (JobError, OSError) as error:
                if not self._warned_of_failure:
                    warn(f"cannot write the checkpoint at step {steps[-1]} to the output: {error}; training continues")
                self._warned_of_failure = True
            finally:
                shutil.rmtree(held, ignore_errors=True)

    def _manifests(self) -> list[Path]:
        return list(self._trainer_folder.glob(f"checkpoint-*/{MANIFEST}"))

    def _upload(self, step: int, held: Path) -> None:
        """Upload a checkpoint, even if the trainer removes it meanwhile, then remove superseded ones."""
        started = time.monotonic()
        folder = self._trainer_folder / f"checkpoint-{step}"
        try:
            files = {name: held / name for name in manifest_files(folder)}
            for name, path in files.items():
                link_or_copy(folder / name, path)
        except FileNotFoundError:  # removed a moment ago; there is a newer one
            return
        store = self._attempt.store()
        target = store.join(FOLDER).join(f"step-{step:09d}-{self._attempt.scratch.name}")
        manifest = files.pop(MANIFEST)
        transfer.upload(target, files)
        transfer.upload(target, {MANIFEST: manifest})
        self.step, self._warned_of_failure = step, False
        log(f"{'saved' if isinstance(store, LocalStore) else 'uploaded'} checkpoint at step {step}")
        seconds = time.monotonic() - started
        self._attempt.status.on_checkpoint(step, seconds)
        self._warn_if_slow(manifest, seconds)
        self._update_history(store)
        remove_superseded(store, self._attempt.scratch.name)

    def _warn_if_slow(self, uploaded: Path, seconds: float) -> None:
        """Warn if the trainer wrote two more checkpoints meanwhile, so that not all can be uploaded."""
        written = sorted(path.stat().st_mtime for path in self._manifests())
        newer = [at for at in written if at > uploaded.stat().st_mtime]
        if len(newer) < RETAINED or self._warned_of_slowness:
            return
        self._warned_of_slowness = True
        size = sum(path.stat().st_size for path in uploaded.parent.rglob("*") if path.is_file())
        warn(
            f"writing a checkpoint of {file_size(size)} to the output took {seconds:.0f} s, and one is written every "
            f"{newer[-1] - newer[-2]:.0f} s: some are skipped, so more steps may be lost; raise "
            "MNRL_CHECKPOINT_INTERVAL, or use faster storage"
        )

    def _update_history(self, store: Store) -> None:
        self._history_updated_at = time.monotonic()
        self._attempt.history.update(store, last_step=max(self._attempt.status.step, self.step or 0))


def list_checkpoints(store: Store) -> list[str]:
    """The names of the checkpoints in a run's folder that have a manifest, the newest first."""
    names = {
        entry.key.split("/")[1] for entry in store.list_objects(f"{FOLDER}/") if entry.key.endswith(f"/{MANIFEST}")
    }
    return sorted(names, reverse=True)


def remove_superseded(store: Store, attempt_name: str) -> None:
    """Delete all but the newest checkpoints, also partial ones of this attempt or older than those retained."""
    complete = list_checkpoints(store)
    retained = complete[:RETAINED]
    oldest = min(retained, default="")  # another attempt may have removed all meanwhile
    names = {entry.key.split("/")[1] for entry in store.list_objects(f"{FOLDER}/step-")}
    for name in names.difference(retained):
        if name in complete or name < oldest or name.endswith(f"-{attempt_name}"):
            remove(store, name)


def remove(store: Store, name: str = "") -> None:
    """Delete a checkpoint, its manifest first; or all of them, also partial ones."""
    entries = list(store.list_objects(f"{FOLDER}/{name}/" if name else f"{FOLDER}/"))
    for entry in sorted(entries, key=lambda entry: not entry.key.endswith(f"/{MANIFEST}")):
        store.delete(entry.key)


def fetch_newest(store: Store, folder: Path, identity: RunIdentity) -> Checkpoint | None:
    """Download the newest valid checkpoint to `folder`; None where there is none. Damaged ones are removed.

    Raises:
        SettingsError: the checkpoint was made with other settings.
        DataError: the checkpoint was made from other data.
    """
    damaged = set[str]()
    while name := next((name for name in list_checkpoints(store) if name not in damaged), None):
        label = f"{store.label}/{FOLDER}/{name}"
        try:
            manifest = _download(store, name, folder)
        except _RemovedMeanwhile:
            log(f"{label} was removed by another attempt during the download; trying again")
            continue
        if manifest is None:
            damaged.add(name)
            _remove_damaged(store, name, label)
            continue
        refuse_other_run(label, manifest, identity)
        return _checkpoint(folder / name, manifest)
    return None


def fetch_named(store: Store, name: str, folder: Path) -> Path:
    """Download the checkpoint from which the other nodes of the run resume.

    Raises:
        HangTimeout: it is missing or damaged.
    """
    with suppress(_RemovedMeanwhile, NotFound):
        if manifest := _download(store, name, folder):
            return _checkpoint(folder / name, manifest).folder
    raise HangTimeout(
        f"{store.label}/{FOLDER}/{name}: node 0 resumes from this checkpoint, which this node cannot download; give "
        "all nodes access to the same MNRL_OUTPUT, then start them again"
    )


class _RemovedMeanwhile(Exception):
    """A checkpoint was removed; its manifest is removed first."""


def _download(store: Store, name: str, folder: Path) -> dict[str, Any] | None:
    """Download a checkpoint. Returns its manifest; None where it is damaged."""
    source = store.join(FOLDER).join(name)
    try:
        transfer.download(source, list(source.list_objects()), folder / name)
    except (NotFound, StorageError) as error:
        if source.stat(MANIFEST) is None:
            raise _RemovedMeanwhile from error
        raise
    manifest = read_valid_manifest(folder / name)
    if manifest is None and source.stat(MANIFEST) is None:
        raise _RemovedMeanwhile
    return manifest


def _checkpoint(folder: Path, manifest: dict[str, Any]) -> Checkpoint:
    log(f"resuming from step {manifest['step']} of {manifest['total_steps']}")
    return Checkpoint(folder, manifest["step"])


def _remove_damaged(store: Store, name: str, label: str) -> None:
    """Else the next checkpoints, which are of earlier steps, would be removed as superseded by it."""
    warn(f"{label} is damaged and will be removed; trying the one before")
    try:
        remove(store, name)
    except JobError as error:
        warn(f"{label} cannot be removed: {error}")


def refuse_other_run(label: str, manifest: dict[str, Any], identity: RunIdentity) -> None:
    """Check that a checkpoint belongs to this run.

    Raises:
        SettingsError: a setting that can change the result has another value.
        DataError: an input differs.
    """
    difference = RunIdentity(manifest["settings"], manifest["inputs"]).find_difference(identity.for_resume())
    if difference is None:
        return
    remedy = "go back to that, or choose another MNRL_RUN_ID"
    name, expected, actual = difference.name, difference.expected, difference.actual
    if difference.kind == "settings":
        raise SettingsError(f"MNRL_{name.upper()}: {label} was made with {expected!r}, now it is {actual!r}; {remedy}")
    raise DataError(f"{name}: {label} was made from other data; {remedy}")
