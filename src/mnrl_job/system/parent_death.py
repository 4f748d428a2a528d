"""End a process with its parent, even if the parent is killed."""

import ctypes
import os
import signal
import sys

from mnrl_job.errors import InternalError

SUPERVISOR = "MNRL_JOB_SUPERVISOR"


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (PR_SET_PDEATHSIG); exit if it is dead already."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(InternalError.code)


def die_with_supervisor() -> None:
    """`die_with_parent` for a worker, whose environment has the pid of the supervisor."""
    die_with_parent(int(os.environ.get(SUPERVISOR, os.getppid())))
