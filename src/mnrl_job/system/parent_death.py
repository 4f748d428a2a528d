"""A process that ends with the one that started it, also where that one is killed."""

import ctypes
import os
import signal
import sys

from mnrl_job.errors import InternalError

SUPERVISOR = "MNRL_JOB_SUPERVISOR"


def die_with_parent(parent: int) -> None:
    """A parent that is killed takes this process along (Linux: PR_SET_PDEATHSIG), also one that is gone already."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(InternalError.code)


def die_with_supervisor() -> None:
    """As `die_with_parent`, for a worker: its environment names the supervisor."""
    die_with_parent(int(os.environ.get(SUPERVISOR, os.getppid())))
