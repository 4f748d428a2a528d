"""How many processors this process may use: those it may run on, and what its control groups leave it of their time.

A pod with a limit of two CPUs on a machine of 64 may run on all of them, and is stopped for the rest of each period
once its threads have used up what two could give: as many threads as there is time for get more done.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """At least 1."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas()])))


def _quotas() -> Iterator[float]:
    """The CPUs' worth of time that each group gives in which this process is, and each above it."""
    for controllers, path in _groups():
        top = CGROUP / "cpu" if controllers else CGROUP
        for folder in (top / path, *(top / path).parents):
            if folder.is_relative_to(top) and (quota := _quota(folder)):
                yield quota


def _groups() -> Iterator[tuple[str, str]]:
    """Of version 1 the group that counts processor time, of version 2 (without a controller's name) the only one."""
    try:
        lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            yield controllers, path.lstrip("/")


def _quota(folder: Path) -> float | None:
    """Microseconds of each period by its length; None where the group has no limit, or is not to be seen from here."""
    try:
        if (both := folder / "cpu.max").exists():
            quota, period = both.read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None
