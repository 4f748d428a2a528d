"""A lease for publishing: one publisher at a time, also on stores without locks and conditional writes.

Each publisher writes a lease under a key of its own, then lists all leases; it continues only if no other is live. Of
two publishers, the one that wrote its lease later sees the other's, so never both continue. All that this needs of a
store is that a list shows what was written before (S3 since 2020). A holder renews its lease all the time. A lease
expires when it has not changed for `LEASE_SECONDS` of the observer's own clock, and at once when its process was on
this machine and has ended. A holder that could not renew for half that time writes no more.

Limitation: a publisher that is frozen in the middle of a request for longer than the lease finishes that request when
it is resumed. On stores that enforce conditional writes (S3 and folders do) it can then at most add a file whose name
the other attempt does not have, or delete one that was being removed; `mnrl-job verify` reports both.
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

FOLDER = ".leases"
LEASE_SECONDS = 60.0
# A run with a generated id is under way while an attempt holds a lease here, which excludes nobody.
UNDER_WAY = "checkpoints/leases"
UNDER_WAY_SECONDS = 120.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.3, 5.0
RELEASE_SECONDS = 10.0


class PublishLease:
    """A lease; while it is held, write only inside `guard_write`."""

    def __init__(self, store: Store, key: str, seconds: float, lapses: bool = True) -> None:
        self.released = threading.Event()
        self._store = store
        self._key = key
        self._seconds = seconds
        self._lapses = lapses
        self._renewed_at = _now()
        self._writers = 0
        self._idle = threading.Condition()

    def create(self) -> "PublishLease":
        """Write the lease, and renew it from now on."""
        self._store.write(self._key, _holder())
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    @contextmanager
    def guard_write(self) -> Iterator[None]:
        """Hold the lease for one write.

        Raises:
            StorageError: it is released, or was not renewed for so long that another attempt may hold it.
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
        """Delete the lease. If a thread still writes, or the store does not answer, it is left to expire."""
        self.released.set()
        with self._idle:
            idle = self._idle.wait_for(lambda: self._writers == 0, timeout=RELEASE_SECONDS)
        if idle:
            with suppress(JobError):
                self._store.delete(self._key)

    def _check(self) -> None:
        if self.released.is_set():
            raise StorageError(f"{self._store.label}: this attempt has released the lease to publish; start again")
        if self._lapses and _now() - self._renewed_at > self._seconds / 2:
            raise StorageError(
                f"{self._store.label}: could not renew the lease to publish for {self._seconds / 2:.0f} s, so another "
                "attempt may publish; start again"
            )

    def _renew(self) -> None:
        while not self.released.wait(self._seconds / 8):
            with suppress(JobError), self.guard_write():  # the next renewal may succeed
                started = _now()
                self._store.write(self._key, _holder())
                self._renewed_at = started


@contextmanager
def acquire_lease(store: Store, seconds: float = LEASE_SECONDS) -> Iterator[PublishLease]:
    """Wait until no other publisher holds a lease on the store, then hold one.

    Raises:
        StorageError: the store does not answer.
    """
    key, observed, pause = f"{FOLDER}/{uuid.uuid4().hex}", dict[str, tuple[str, float]](), FIRST_PAUSE_SECONDS
    lease = PublishLease(store, key, seconds).create()
    try:
        while others := _live_leases(store, FOLDER, key, seconds, observed):
            if min(others) < key:  # the smallest key stays, the others back off
                lease.release()
            time.sleep(random.uniform(0.5, 1) * pause)
            pause = min(LONGEST_PAUSE_SECONDS, 1.5 * pause)
            if lease.released.is_set():
                lease = PublishLease(store, key, seconds).create()
        yield lease
    finally:
        lease.release()


@contextmanager
def under_way(store: Store) -> Iterator[None]:
    """Show `is_under_way` that an attempt at the run is; also again after an outage of the storage."""
    lease = PublishLease(store, f"{UNDER_WAY}/{uuid.uuid4().hex}", UNDER_WAY_SECONDS, lapses=False).create()
    try:
        yield
    finally:
        lease.release()


def is_under_way(store: Store) -> bool:
    """Whether an attempt at the run is under way, which shows when it renews its lease; waits until that expires."""
    observed, first = dict[str, tuple[str, float]](), dict[str, str]()
    while live := _live_leases(store, UNDER_WAY, "", UNDER_WAY_SECONDS, observed):
        versions = {key: observed[key][0] for key in live}
        first = first or versions
        if not versions.items() <= first.items():
            return True
        time.sleep(LONGEST_PAUSE_SECONDS)
    return False


def _live_leases(
    store: Store, folder: str, own: str, seconds: float, observed: dict[str, tuple[str, float]]
) -> list[str]:
    """The leases of others that have not expired; expired ones are removed."""
    live = []
    for entry in store.list_objects(f"{folder}/"):
        if entry.key == own:
            continue
        version, since = observed.get(entry.key, ("", 0.0))
        if _process_has_ended(store, entry) or (version == entry.version and _now() - since > seconds):
            store.delete(entry.key)
            continue
        if version != entry.version:
            if not observed:
                log(f"{store.label}: another attempt may be at work on this run; waiting")
            observed[entry.key] = entry.version, _now()
        live.append(entry.key)
    return live


def _now() -> float:
    """Seconds, including those in which the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _holder() -> bytes:
    """The content of a lease. The timestamp makes every renewal another version."""
    return dumps({"process": _process(os.getpid()), "at": time.time_ns()}).encode()


def _process(pid: int) -> list[str] | None:
    """An identity that no other process ever has: boot, PID namespace, PID and start time. None for an ended one."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if stat[0] in ("Z", "X") else [boot, namespace, str(pid), stat[19]]  # zombie, dead
    return None


def _process_has_ended(store: Store, entry: Entry) -> bool:
    with suppress(ValueError, KeyError, TypeError, JobError):  # it may be renewed or released at this moment
        process = json.loads(read_bytes(store, entry.key) or b"{}")["process"]
        here = _process(os.getpid())
        if process and here and process[:2] == here[:2]:
            return bool(_process(int(process[2])) != process)
    return False
