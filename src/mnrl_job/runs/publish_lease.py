"""One publisher at a time, also on stores that can neither lock nor refuse a second writer.

Each publisher writes a claim under a name of its own, then lists all claims; it may go on only when its own is the only
live one. Of two publishers the one whose claim was written later sees the other's, so never both go on; this needs no
more of a store than that what was written is listed (S3 since 2020). A claim is renewed all the time. One that has not
changed for `LEASE` seconds of the watcher's own clock was abandoned, and one whose process was on this machine and is
gone is known to be abandoned at once. A holder that could not renew its claim for half that time writes no more.

What is left: a publisher that is frozen amid one request for longer than the lease, then thawed, finishes it. Where a
store enforces conditional writes (S3 does, and so does a folder) it can then at most add a file of a name that the
other attempt does not have, or delete one that was being cleared; `mnrl-job verify` names either.
"""

import json
import os
import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnrl_job.errors import JobError, StorageError
from mnrl_job.storage import Entry, Store
from mnrl_job.storage.base import read_bytes
from mnrl_job.system.json_text import dumps
from mnrl_job.system.logs import log

FOLDER = ".claims"
DEAD = ("Z", "X")  # process states: ended, and not yet collected
LEASE = 60.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.3, 5.0
RELEASE_SECONDS = 10.0


class PublishLease:
    """A lease that is held; write only inside `guard_write`."""

    def __init__(self, store: Store, key: str, lease: float) -> None:
        self.released = threading.Event()
        self._store = store
        self._key = key
        self._lease = lease
        self._renewed_at = _now()
        self._writers = 0
        self._idle = threading.Condition()

    def create(self) -> "PublishLease":
        """Let it stand, and renew it from now on."""
        self._store.write(self._key, _self_description())
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    @contextmanager
    def guard_write(self) -> Iterator[None]:
        """Hold the lease for one write.

        Raises:
            StorageError: it is released, or was not renewed for so long that another may have taken over.
        """
        with self._idle:
            self._check()
            self._writers += 1
        try:
            yield
        finally:
            with self._idle:
                self._writers -= 1
                self._idle.notify_all()

    def release(self) -> None:
        """Take the claim back. While a thread still writes, or the store refuses, it stays and runs out by itself."""
        self.released.set()
        with self._idle:
            idle = self._idle.wait_for(lambda: self._writers == 0, timeout=RELEASE_SECONDS)
        if idle:
            with suppress(JobError):
                self._store.delete(self._key)

    def _check(self) -> None:
        if self.released.is_set():
            raise StorageError(f"{self._store.label}: this attempt does not publish any more; start again")
        if _now() - self._renewed_at > self._lease / 2:
            raise StorageError(
                f"{self._store.label}: could not renew the claim to publish for {self._lease / 2:.0f} s, so another "
                "attempt may publish; start again"
            )

    def _renew(self) -> None:
        while not self.released.wait(self._lease / 8):
            with suppress(JobError), self.guard_write():  # the store may be back in a moment
                began = _now()
                self._store.write(self._key, _self_description())
                self._renewed_at = began


@contextmanager
def acquire_lease(store: Store, lease: float = LEASE) -> Iterator[PublishLease]:
    """Wait until no other publisher holds the store, then hold it.

    Raises:
        StorageError: the store does not answer.
    """
    key, watched, pause = f"{FOLDER}/{uuid.uuid4().hex}", dict[str, tuple[str, float]](), FIRST_PAUSE_SECONDS
    claim = PublishLease(store, key, lease).create()
    try:
        while others := _live(store, key, lease, watched):
            if min(others) < key:  # the smallest name keeps its claim standing, the others step back
                claim.release()
            time.sleep(random.uniform(0.5, 1) * pause)
            pause = min(LONGEST_PAUSE_SECONDS, 1.5 * pause)
            if claim.released.is_set():
                claim = PublishLease(store, key, lease).create()
        yield claim
    finally:
        claim.release()


def _live(store: Store, own: str, lease: float, watched: dict[str, tuple[str, float]]) -> list[str]:
    """The claims of other publishers that are alive, as far as can be told; abandoned ones are removed."""
    live = []
    for entry in store.list_objects(f"{FOLDER}/"):
        if entry.key == own:
            continue
        version, since = watched.get(entry.key, ("", 0.0))
        if version != entry.version:
            if not watched:
                log("another attempt is publishing this run; waiting for it")
            watched[entry.key] = entry.version, _now()
        elif _now() - since > lease:
            store.delete(entry.key)
            continue
        if _process_is_gone(store, entry):
            store.delete(entry.key)
        else:
            live.append(entry.key)
    return live


def _now() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _self_description() -> bytes:
    """Who holds a claim. The counter makes every renewal another version."""
    return dumps({"process": _process(os.getpid()), "at": time.time_ns()}).encode()


def _process(pid: int) -> list[str] | None:
    """A name no other process ever has: this boot, this process namespace, number and start time. None where gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = facts[0], facts[19]
    return None if state in DEAD else [boot, namespace, str(pid), started]


def _process_is_gone(store: Store, entry: Entry) -> bool:
    with suppress(ValueError, KeyError, TypeError, JobError):  # also renewed or released this moment
        process = json.loads(read_bytes(store, entry.key) or b"{}")["process"]
        here = _process(os.getpid())
        if process and here and process[:2] == here[:2]:
            return bool(_process(int(process[2])) != process)
    return False
