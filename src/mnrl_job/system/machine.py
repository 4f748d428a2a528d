"""What this machine offers a run: disk, memory, shared memory, user, caches. Asked in milliseconds, without torch."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from mnrl_job.errors import EnvironmentFailure, JobError
from mnrl_job.system.devices import Devices
from mnrl_job.system.finding import Finding
from mnrl_job.system.home import can_be_written, hub_cache

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - asked for its size, nothing is written
ENOUGH_SHARED_MEMORY = 1 << 30
MIN_FREE_BYTES = 1 << 20
CGROUP = Path("/sys/fs/cgroup")


def disk(folder: Path, needed: int) -> Finding:
    """Whether the scratch has room for copies of remote inputs, prepared data and the trained model (bytes)."""
    free = shutil.disk_usage(folder).free
    told = f"{free / 1e9:.1f} GB free in {folder}, about {needed / 1e9:.1f} GB needed"
    if free < needed:
        return Finding("disk", "failed", told, "free space, or name a larger MNRL_WORK_DIR", EnvironmentFailure.kind)
    return Finding("disk", "passed", told)


def disk_full_error(error: BaseException, scratch: Path) -> EnvironmentFailure | None:
    """What an error means if the scratch is full: not every library says so plainly."""
    told = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if told or shutil.disk_usage(scratch).free < MIN_FREE_BYTES:
        where = f"{scratch.parent} is full ({type(error).__name__}: {error})"
        return EnvironmentFailure(f"disk: {where}; free space, or name a larger MNRL_WORK_DIR")
    return None


@contextmanager
def translate_disk_full(scratch: Path) -> Iterator[None]:
    """Where the scratch is full, any exception inside means that.

    Raises:
        EnvironmentFailure: the scratch is full.
    """
    try:
        yield
    except JobError:
        raise
    except Exception as error:
        if full := disk_full_error(error, scratch):
            raise full from error
        raise


def shared_memory(devices: Devices) -> Finding:
    """Batches for GPUs, and what these tell one another, go through /dev/shm; containers give it 64 MB."""
    if not devices.gpus:
        return Finding("shared memory", "passed", "not needed on a CPU")
    size = shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else 0
    told = f"{size / 1e6:.0f} MB in {SHARED_MEMORY} for {devices.workers} worker(s)"
    if size < ENOUGH_SHARED_MEMORY:
        remedy = "docker run --ipc=host or --shm-size=1g; in Kubernetes mount an emptyDir with medium: Memory there"
        return Finding("shared memory", "warning", told, remedy)
    return Finding("shared memory", "passed", told)


def user() -> Finding:
    """Clusters with restricted pod security refuse root."""
    if os.geteuid() == 0:
        remedy = "docker run --user 1000:0; in Kubernetes runAsNonRoot: true"
        return Finding("user", "warning", "this is root; restricted clusters refuse that", remedy)
    return Finding("user", "passed", f"user {os.geteuid()}, not root")


def caches() -> Finding:
    """The folders where libraries write: temporary files and the Hub's downloads."""
    folders = (Path(tempfile.gettempdir()), hub_cache())
    locked = [str(folder) for folder in folders if not can_be_written(folder)]
    if locked:
        remedy = "mount writable folders there, or set TMPDIR and HF_HOME to such"
        return Finding("caches", "warning", f"not writable: {', '.join(locked)}", remedy)
    return Finding("caches", "passed", f"writable: {', '.join(map(str, folders))}")


def oom_kills() -> int:
    """Processes of this container that the kernel has killed for want of memory; 0 where it does not count them."""
    counters = [CGROUP / "memory.events", CGROUP / "memory" / "memory.oom_control"]
    for line in Path("/proc/self/cgroup").read_text().splitlines() if CGROUP.is_dir() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            counters.insert(0, CGROUP / "memory" / path.lstrip("/") / "memory.oom_control")
        elif not controllers:
            counters.insert(0, CGROUP / path.lstrip("/") / "memory.events")
    for counter in filter(Path.is_file, counters):
        return sum(int(line.split()[1]) for line in counter.read_text().splitlines() if line.startswith("oom_kill "))
    return 0


def free_memory() -> int:
    """Bytes that can be used now: of the machine, or of the container where that is less."""
    free = psutil.virtual_memory().available
    limit, used = (CGROUP / "memory.max", CGROUP / "memory.current")
    if limit.is_file() and (most := limit.read_text().strip()).isdigit():
        free = min(free, int(most) - int(used.read_text()))
    return free
