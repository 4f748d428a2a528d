"""Entry point: handles SIGTERM before anything large is imported, and until the process exits."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

PREEMPTED = 75


def main() -> NoReturn:
    """Run the command line, see `cli`, and exit with its code."""
    signal.signal(signal.SIGTERM, _exit_preempted)
    from mnrl_job.cli import main as run

    code = run()
    # Python restores the signal handlers when it exits, so that a late SIGTERM would change the exit code.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _exit_preempted(_number: int, _frame: FrameType | None) -> None:
    message = f"stopped on request (exit {PREEMPTED}, preempted)"
    log_format = os.environ.get("MNRL_LOG_FORMAT", "").strip()
    if log_format == "json" or (log_format != "text" and not sys.stderr.isatty()):
        message = f'{{"level": "error", "message": "{message}", "exit_code": {PREEMPTED}, "class": "preempted"}}'
    os.write(sys.stderr.fileno(), f"{message}\n".encode())
    os._exit(PREEMPTED)
