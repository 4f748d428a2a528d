"""A worker asked to stop: noted by SIGTERM, acted upon where nothing is lost."""

import signal
from types import FrameType

from mnrl_job.errors import Preempted

_asked = False


def note_requests() -> None:
    """From now on SIGTERM does not end this process, but is remembered. A second one changes nothing."""
    signal.signal(signal.SIGTERM, _note)


def asked() -> bool:
    """Whether this process was asked to stop."""
    return _asked


def give_way() -> None:
    """Stop here, if that was asked for.

    Raises:
        Preempted: it was.
    """
    if _asked:
        raise Preempted("stopped on request")


def _note(_number: int, _frame: FrameType | None) -> None:
    global _asked
    _asked = True
