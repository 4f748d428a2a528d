"""Where the program begins: it can be stopped in order before anything large is imported."""

import os
import signal
import sys
from types import FrameType

PREEMPTED = 75


def main() -> int:
    """Run the command line, see `cli`."""
    signal.signal(signal.SIGTERM, _leave)
    from mnrl_job.cli import main as run

    return run()


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(
        sys.stderr.fileno(), f"stopped on request before anything had begun (exit {PREEMPTED}, preempted)\n".encode()
    )
    os._exit(PREEMPTED)
