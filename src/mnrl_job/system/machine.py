"""Checks of this machine: disk, memory, shared memory, user, caches. They take milliseconds and need no torch."""

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
from mnrl_job.system.home import hub_cache, is_writable
from mnrl_job.system.quantities import file_size, plural

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only its size is read
MIN_SHARED_MEMORY = 1 << 30
MIN_FREE_BYTES = 1 << 20
CGROUP = Path("/sys/fs/cgroup")


def disk(folder: Path, needed: int) -> Finding:
    """Whether `folder` has `needed` bytes for copies of remote inputs, prepared data and the trained model."""
    free = shutil.disk_usage(folder).free
    detail = f"{file_size(free)} free in {folder}, about {file_size(needed)} needed"
    if free >= needed:
        return Finding("disk", "passed", detail)
    remedy = "free space, or set MNRL_WORK_DIR to a larger disk"
    return Finding("disk", "failed", detail, remedy, EnvironmentFailure.kind)


def disk_full_error(error: BaseException, scratch: Path) -> EnvironmentFailure | None:
    """An EnvironmentFailure if the scratch disk is full, which not every library reports clearly; else None."""
    reported = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if reported or shutil.disk_usage(scratch).free < MIN_FREE_BYTES:
        where = f"{scratch.parent} is full ({type(error).__name__}: {error})"
        return EnvironmentFailure(f"disk: {where}; free space, or set MNRL_WORK_DIR to a larger disk")
    return None


@contextmanager
def translate_disk_full(scratch: Path) -> Iterator[None]:
    """Turn any exception into an EnvironmentFailure if the scratch disk is full.

    Raises:
        EnvironmentFailure: the scratch disk is full.
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
    """Batches for GPUs and NCCL communication use /dev/shm, which is 64 MB by default in containers."""
    if not devices.gpus:
        return Finding("shared memory", "passed", "not needed on a CPU")
    size = shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else 0
    detail = f"{file_size(size)} in {SHARED_MEMORY} for {plural(devices.workers, 'worker')}"
    if size < MIN_SHARED_MEMORY:
        remedy = "docker run --ipc=host or --shm-size=1g; in Kubernetes mount an emptyDir with medium: Memory there"
        return Finding("shared memory", "warning", detail, remedy)
    return Finding("shared memory", "passed", detail)


def user() -> Finding:
    """Clusters with restricted pod security reject root."""
    if os.geteuid() == 0:
        remedy = "docker run --user 1000:0; in Kubernetes runAsNonRoot: true"
        return Finding("user", "warning", "running as root, which restricted clusters reject", remedy)
    return Finding("user", "passed", f"user {os.geteuid()}, not root")


def caches() -> Finding:
    """The folders libraries write to: temporary files and Hub downloads."""
    folders = (Path(tempfile.gettempdir()), hub_cache())
    read_only = [str(folder) for folder in folders if not is_writable(folder)]
    if read_only:
        remedy = "mount writable folders there, or set TMPDIR and HF_HOME to writable folders"
        return Finding("caches", "warning", f"not writable: {', '.join(read_only)}", remedy)
    return Finding("caches", "passed", f"writable: {', '.join(map(str, folders))}")


def oom_kills() -> int:
    """Number of processes of this container that the OOM killer has killed; 0 if the kernel does not count them."""
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
    """Available bytes of memory: of the machine or of the container, whichever is less."""
    free = psutil.virtual_memory().available
    limit, used = (CGROUP / "memory.max", CGROUP / "memory.current")
    if limit.is_file() and (maximum := limit.read_text().strip()).isdigit():
        free = min(free, int(maximum) - int(used.read_text()))
    return free
