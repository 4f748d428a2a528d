"""The number of CPUs this process can use: its affinity mask, limited by the CPU quotas of its cgroups.

A pod with a limit of 2 CPUs on a machine with 64 may run on all of them, but is throttled for the rest of each period
once it has used up its quota. No more threads than the quota allows get more work done.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """The number of usable CPUs, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas()])))


def _quotas() -> Iterator[float]:
    """The quotas, in CPUs, of the cgroups of this process and their ancestors."""
    for controllers, path in _cgroups():
        root = CGROUP / "cpu" if controllers else CGROUP
        for folder in (root / path, *(root / path).parents):
            if folder.is_relative_to(root) and (quota := _quota(folder)):
                yield quota


def _cgroups() -> Iterator[tuple[str, str]]:
    """The cgroup of the cpu controller (v1), or the only one (v2, which names no controllers)."""
    try:
        lines = PROC_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            yield controllers, path.lstrip("/")


def _quota(folder: Path) -> float | None:
    """Quota over period; None if the cgroup has no limit or is not visible in this namespace."""
    try:
        if (limit := folder / "cpu.max").exists():
            quota, period = limit.read_text(encoding="utf-8").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None
