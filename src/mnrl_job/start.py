"""Where the program begins and ends: it can be stopped in order before anything large is imported, and at the last."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

PREEMPTED = 75


def main() -> NoReturn:
    """Run the command line, see `cli`, and leave with its exit code."""
    signal.signal(signal.SIGTERM, _leave)
    from mnrl_job.cli import main as run

    code = run()
    # Python's own way out puts signals back to what they were, and a late one would change the exit code.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), f"stopped on request (exit {PREEMPTED}, preempted)\n".encode())
    os._exit(PREEMPTED)
