"""Checkpoints at the run's place: uploaded while training goes on, two kept, the newest whole one fetched again."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.errors import DataError, HangTimeout, JobError, NotFound, Preempted, SettingsError, StorageError
from mnrl_job.runs.attempt import Attempt
from mnrl_job.storage import Store, transfer
from mnrl_job.storage.manifest import MANIFEST, manifest_files, read_valid_manifest
from mnrl_job.system.files import hold
from mnrl_job.system.logs import log, warn

FOLDER = "checkpoints"
# Where the workers write theirs, as `checkpoint-STEP` in the scratch.
TRAINER = "trainer"
# Where the files of the one that is being sent stand meanwhile: the trainer keeps its two newest only.
SENDING = "sending"
KEPT = 2
LOOK_SECONDS = 1.0
SECONDS_BETWEEN_ENTRIES = 60.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole one on this machine, made after `step` steps."""

    folder: Path
    step: int


@contextmanager
def upload_checkpoints(place: Attempt) -> Iterator[Callable[[], None]]:
    """While workers write checkpoints, keep the newest at the run's place; also once they have ended.

    Yields:
        A function that uploads the newest one at once, if it is not there yet.
    """
    keeper = _CheckpointUploader(place)
    ended = threading.Event()
    thread = threading.Thread(target=keeper.follow, args=(ended,), daemon=True)
    thread.start()
    try:
        yield keeper.look
    except Preempted:
        _end(thread, ended, keeper)
        if keeper.step is None:
            raise
        raise Preempted(f"stopped on request; start the job again, it goes on from step {keeper.step}") from None
    finally:
        _end(thread, ended, keeper)


def _end(thread: threading.Thread, ended: threading.Event, keeper: "_CheckpointUploader") -> None:
    if not ended.is_set():
        ended.set()
        thread.join()
        keeper.look()


class _CheckpointUploader:
    """`step` is that of the newest checkpoint at the run's place, None before there is one."""

    def __init__(self, place: Attempt) -> None:
        self.step: int | None = None
        self._place = place
        self._local = place.scratch / TRAINER
        self._warned = False
        self._warned_slow = False
        self._uploading = threading.Lock()
        self._entered = time.monotonic()

    def follow(self, ended: threading.Event) -> None:
        while not ended.wait(LOOK_SECONDS):
            self.look()
            if time.monotonic() - self._entered > SECONDS_BETWEEN_ENTRIES:
                with suppress(JobError):  # storage that is away must not end this thread
                    self._enter(self._place.store(attempts=1))

    def look(self) -> None:
        """Upload the newest checkpoint if it is not there yet; what storage refuses is tried again the next time."""
        with self._uploading:
            self._look()

    def _look(self) -> None:
        steps = self._steps()
        if not steps or steps[-1] == self.step:
            return
        held = self._place.scratch / SENDING
        try:
            self._upload(steps[-1], held)
        except (JobError, OSError) as error:
            if not self._warned:
                warn(f"the checkpoint of step {steps[-1]} is not uploaded yet: {error}; training goes on")
            self._warned = True
        finally:
            shutil.rmtree(held, ignore_errors=True)

    def _steps(self) -> list[int]:
        return sorted(int(seal.parent.name.rpartition("-")[2]) for seal in self._local.glob(f"checkpoint-*/{MANIFEST}"))

    def _upload(self, step: int, held: Path) -> None:
        """Send a checkpoint, whatever the trainer removes meanwhile, then clear what it makes superfluous."""
        began = time.monotonic()
        folder = self._local / f"checkpoint-{step}"
        try:
            files = {name: held / name for name in manifest_files(folder)}
            for name, path in files.items():
                hold(folder / name, path)
        except FileNotFoundError:  # a newer one has taken its place this moment
            return
        store = self._place.store()
        place = store.join(FOLDER).join(f"step-{step:09d}-{self._place.scratch.name}")
        last = {MANIFEST: files.pop(MANIFEST)}
        transfer.upload(place, files)
        transfer.upload(place, last)
        self.step, self._warned = step, False
        log(f"the checkpoint of step {step} is kept")
        seconds = time.monotonic() - began
        self._place.status.kept(step, seconds)
        self._tell_if_slow(last[MANIFEST], seconds)
        self._enter(store)
        remove_superfluous(store, self._place.scratch.name)

    def _tell_if_slow(self, sent: Path, seconds: float) -> None:
        """Warn where the trainer made two more meanwhile, so that not every checkpoint can be kept."""
        made = sorted(seal.stat().st_mtime for seal in self._local.glob(f"checkpoint-*/{MANIFEST}"))
        newer = [at for at in made if at > sent.stat().st_mtime]
        if len(newer) < KEPT or self._warned_slow:
            return
        self._warned_slow = True
        size = sum(path.stat().st_size for path in sent.parent.rglob("*") if path.is_file())
        warn(
            f"sending a checkpoint of {size / 1e6:.0f} MB took {seconds:.0f} s, and one is made each "
            f"{newer[-1] - newer[-2]:.0f} s: only some are kept, so more steps may be lost; raise "
            "MNRL_CHECKPOINT_INTERVAL, or use faster storage"
        )

    def _enter(self, store: Store) -> None:
        self._entered = time.monotonic()
        self._place.diary.write(store, last_step=max(self._place.status.step, self.step or 0))


def names(store: Store) -> list[str]:
    """The checkpoints at a run's place that have a manifest, the newest first."""
    sealed = {
        entry.key.split("/")[1] for entry in store.list_objects(f"{FOLDER}/") if entry.key.endswith(f"/{MANIFEST}")
    }
    return sorted(sealed, reverse=True)


def remove_superfluous(store: Store, attempt: str) -> None:
    """Delete all but the newest that are kept; of this attempt, and of what is older than these, also partial ones."""
    whole = names(store)
    kept_names = whole[:KEPT]
    oldest = min(kept_names, default="")  # another attempt may have removed all meanwhile
    every = {entry.key.split("/")[1] for entry in store.list_objects(f"{FOLDER}/step-")}
    for name in every.difference(kept_names):
        if name in whole or name < oldest or name.endswith(f"-{attempt}"):
            remove(store, name)


def remove(store: Store, name: str = "") -> None:
    """Delete a checkpoint, its manifest first; or all of them, also partial ones."""
    entries = list(store.list_objects(f"{FOLDER}/{name}/" if name else f"{FOLDER}/"))
    for entry in sorted(entries, key=lambda one: not one.key.endswith(f"/{MANIFEST}")):
        store.delete(entry.key)


def fetch_newest(store: Store, folder: Path, facts: dict[str, dict[str, Any]]) -> Checkpoint | None:
    """The newest checkpoint that is whole, on this machine; None where there is none. Damaged ones are removed.

    Args:
        store: the run's place.
        folder: where to.
        facts: what it must have in common with this run: `settings` and `inputs`, by name.

    Raises:
        SettingsError: it was made with other settings.
        DataError: it was made from other data.
    """
    damaged = set[str]()
    while name := next((one for one in names(store) if one not in damaged), None):
        label = f"{store.label}/{FOLDER}/{name}"
        try:
            sealed = _fetched(store, name, folder)
        except _RemovedMeanwhile:
            log(f"{label} was removed by another attempt while it was fetched; looking again")
            continue
        if sealed is None:
            damaged.add(name)
            _remove_damaged(store, name, label)
            continue
        refuse_other(label, sealed, facts)
        log(f"resuming from step {sealed['step']} of {sealed['total_steps']}")
        return Checkpoint(folder / name, sealed["step"])
    return None


def fetch_named(store: Store, name: str, folder: Path) -> Path:
    """A checkpoint that another node of the run goes on from, on this machine.

    Raises:
        HangTimeout: it is not there, or not whole.
    """
    with suppress(_RemovedMeanwhile, NotFound):
        if sealed := _fetched(store, name, folder):
            log(f"resuming from step {sealed['step']} of {sealed['total_steps']}")
            return folder / name
    raise HangTimeout(
        f"{store.label}/{FOLDER}/{name}: node 0 goes on from this checkpoint, which this node cannot fetch; let all "
        "nodes reach the same MNRL_OUTPUT, then start them again"
    )


class _RemovedMeanwhile(Exception):
    """A checkpoint is not there any more; whoever removes one begins with its manifest."""


def _fetched(store: Store, name: str, folder: Path) -> dict[str, Any] | None:
    """Have a checkpoint on this machine. Returns what its manifest says; None where it is damaged."""
    place = store.join(FOLDER).join(name)
    try:
        transfer.download(place, list(place.list_objects()), folder / name)
    except (NotFound, StorageError) as error:
        if place.stat(MANIFEST) is None:
            raise _RemovedMeanwhile from error
        raise
    sealed = read_valid_manifest(folder / name)
    if sealed is None and place.stat(MANIFEST) is None:
        raise _RemovedMeanwhile
    return sealed


def _remove_damaged(store: Store, name: str, label: str) -> None:
    """It must not stand before those that will be made from an earlier step on, which would be removed in its place."""
    warn(f"{label} is damaged and is removed; looking for the one before")
    try:
        remove(store, name)
    except JobError as error:
        warn(f"{label} cannot be removed: {error}")


def refuse_other(label: str, sealed: dict[str, Any], facts: dict[str, dict[str, Any]]) -> None:
    """A run goes on only with the settings and the data it began with.

    Raises:
        SettingsError: a setting that can change the result has another value.
        DataError: an input is another.
    """
    remedy = "go back to that, or choose another MNRL_RUN_ID"
    for name, value in facts["settings"].items():
        if sealed["settings"].get(name) != value:
            was = sealed["settings"].get(name)
            raise SettingsError(f"MNRL_{name.upper()}: {label} was made with {was!r}, now it is {value!r}; {remedy}")
    for name in facts["inputs"].keys() | sealed["inputs"].keys():
        if sealed["inputs"].get(name) != facts["inputs"].get(name):
            raise DataError(f"{name}: {label} was made from others; {remedy}")
