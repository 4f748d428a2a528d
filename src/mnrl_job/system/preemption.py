"""Stopping on request: the supervisor at once, a worker where nothing is lost."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from mnrl_job.errors import JobError, Preempted


@dataclass(slots=True)
class _Request:
    """The request to stop: its signal's name, and when it came; `held` while nothing may be interrupted."""

    name: str = ""
    at: float | None = None
    held: bool = False

    def note(self, number: int, _frame: FrameType | None = None) -> None:
        if self.at is None:
            self.name, self.at = signal.Signals(number).name, time.monotonic()


_request = _Request()


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `Preempted`, once; a second signal cannot disturb the cleaning up."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        _request.note(number)
        if not _request.held:
            raise_if_stop_requested()

    handled = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(each, stop) for each in handled]
    try:
        with preempted_takes_precedence():
            yield
    finally:
        for each, handler in zip(handled, previous, strict=True):
            signal.signal(each, handler)
        _request.at = None


@contextmanager
def preempted_takes_precedence() -> Iterator[None]:
    """Once a stop was asked for, any exception inside means it: NumPy answers one that a signal raised with its own."""
    try:
        yield
    except JobError:
        raise
    except Exception:
        raise_if_stop_requested()
        raise


@contextmanager
def defer_preemption() -> Iterator[None]:
    """A request to stop that comes inside takes effect at the end."""
    _request.held = True
    try:
        yield
    finally:
        _request.held = False
    raise_if_stop_requested()


def record_sigterm() -> None:
    """From now on SIGTERM does not end this process, but is remembered. A second one changes nothing."""
    signal.signal(signal.SIGTERM, _request.note)


def stop_requested() -> bool:
    """Whether this process was asked to stop."""
    return _request.at is not None


def seconds_since_stop_requested() -> float:
    """How long ago that was; 0 where nobody asked."""
    return 0.0 if _request.at is None else time.monotonic() - _request.at


def raise_if_stop_requested() -> None:
    """Stop here, if that was asked for.

    Raises:
        Preempted: it was.
    """
    if stop_requested():
        raise stopped_by(_request.name)


def stopped_by(name: str) -> Preempted:
    """What a request to stop means, by the name of its signal."""
    return Preempted(f"stopped on request ({name}); nothing was published, start the job again")
