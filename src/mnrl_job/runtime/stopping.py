"""Stopping on request: the supervisor at once, a worker where nothing is lost."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mnrl_job.errors import Preempted

_asked_at: float | None = None


@contextmanager
def stop_on_request() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `Preempted`, once; a second signal cannot disturb the cleaning up."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        _note(number, None)
        name = signal.Signals(number).name
        raise Preempted(f"stopped on request ({name}); nothing was published, start the job again")

    handled = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(each, stop) for each in handled]
    try:
        yield
    finally:
        for each, handler in zip(handled, previous, strict=True):
            signal.signal(each, handler)


def note_requests() -> None:
    """From now on SIGTERM does not end this process, but is remembered. A second one changes nothing."""
    signal.signal(signal.SIGTERM, _note)


def asked() -> bool:
    """Whether this process was asked to stop."""
    return _asked_at is not None


def seconds_since_asked() -> float:
    """How long ago that was; 0 where nobody asked."""
    return 0.0 if _asked_at is None else time.monotonic() - _asked_at


def give_way() -> None:
    """Stop here, if that was asked for.

    Raises:
        Preempted: it was.
    """
    if asked():
        raise Preempted("stopped on request")


def _note(_number: int, _frame: FrameType | None) -> None:
    global _asked_at
    _asked_at = _asked_at or time.monotonic()
