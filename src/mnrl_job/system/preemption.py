"""Preemption: SIGTERM or SIGINT stops the supervisor at once, a worker after its checkpoint."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from mnrl_job.errors import JobError, Preempted


@dataclass(slots=True)
class _Request:
    """A request to stop: the signal and its time; `deferred` while nothing may be interrupted."""

    name: str = ""
    time: float | None = None
    deferred: bool = False

    def record(self, number: int, _frame: FrameType | None = None) -> None:
        if self.time is None:
            self.name, self.time = signal.Signals(number).name, time.monotonic()


_request = _Request()


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Raise `Preempted` on SIGTERM or SIGINT, once: a second signal does not interrupt the cleanup."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for signal_number in handled:
            signal.signal(signal_number, signal.SIG_IGN)
        _request.record(number)
        if not _request.deferred:
            raise_if_stop_requested()

    handled = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(signal_number, stop) for signal_number in handled]
    try:
        with preempted_takes_precedence():
            yield
    finally:
        for signal_number, handler in zip(handled, previous, strict=True):
            signal.signal(signal_number, handler)
        _request.time = None


@contextmanager
def preempted_takes_precedence() -> Iterator[None]:
    """After a stop request, turn any exception into `Preempted`: NumPy hides one that a signal handler raises."""
    try:
        yield
    except JobError:
        raise
    except Exception:
        raise_if_stop_requested()
        raise


@contextmanager
def defer_preemption() -> Iterator[None]:
    """A request to stop inside the context takes effect at its end."""
    _request.deferred = True
    try:
        yield
    finally:
        _request.deferred = False
    raise_if_stop_requested()


def record_sigterm() -> None:
    """From now on SIGTERM does not end this process but is recorded."""
    signal.signal(signal.SIGTERM, _request.record)


def stop_requested() -> bool:
    return _request.time is not None


def seconds_since_stop_requested() -> float:
    """Seconds since the stop request; 0 without one."""
    return 0.0 if _request.time is None else time.monotonic() - _request.time


def raise_if_stop_requested() -> None:
    """Stop here if requested.

    Raises:
        Preempted: a stop was requested.
    """
    if stop_requested():
        raise stopped_by(_request.name)


def stopped_by(name: str) -> Preempted:
    return Preempted(f"stopped on request ({name}); nothing was published, start the job again")
