"""The supervisor's eye on its workers: whether any of them still gets on."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mnrl_job.errors import HangTimeout
from mnrl_job.system.phases import Phase

SECONDS_BETWEEN_LOOKS = 0.5
LONGEST_PAUSE_SECONDS = 2.0
# Time for workers to print where they stand.
PRINTING_SECONDS = 1.0

Heartbeat = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerTimeouts:
    """How workers are looked after.

    Attributes:
        hang_seconds: so long none of them may be without a sign of life.
        grace_seconds: so long the whole job has to end, once it is asked to.
        follow: is told what the first worker does.
    """

    hang_seconds: float
    grace_seconds: float
    on_heartbeat: Callable[[Heartbeat], None] = lambda _heartbeat: None


class Watchdog:
    """Looks at the heartbeats of some workers.

    A worker that waits for another makes no sign of life either, so they hang only when none of them makes one. The
    time is counted here, look by look: neither a clock that is set nor a machine that slept makes it jump.

    Args:
        read: the last heartbeats, by what to call the worker.
        hang_seconds: how long they may be silent.
        follow: is told what the first of them does.
    """

    def __init__(
        self,
        read: Callable[[], dict[str, Heartbeat]],
        hang_seconds: float,
        follow: Callable[[Heartbeat], None] = lambda _heartbeat: None,
    ) -> None:
        self._read = read
        self._hang_seconds = hang_seconds
        self._follow = follow
        self._heartbeats: dict[str, Heartbeat] = {}
        self._silent = 0.0
        self._looked = time.monotonic()

    def poll(self) -> None:
        """Look, if it is time to.

        Raises:
            HangTimeout: none has got on for too long.
        """
        passed = time.monotonic() - self._looked
        if passed < SECONDS_BETWEEN_LOOKS:
            return
        self._looked += passed
        heartbeats = self._read()
        if heartbeats != self._heartbeats or not heartbeats:
            self._silent = 0.0
            self._follow(next(iter(heartbeats.values()), {}))
        else:
            self._silent += min(passed, LONGEST_PAUSE_SECONDS)
        self._heartbeats = heartbeats
        factor = max((_phase(heartbeat).timeout_factor for heartbeat in heartbeats.values()), default=1)
        if self._silent > self._hang_seconds * factor:
            raise HangTimeout(self._description())

    def _description(self) -> str:
        each = (f"{name} stood at {_described(heartbeat)}" for name, heartbeat in self._heartbeats.items())
        return (
            f"no worker got on for {self._silent:.0f} s (MNRL_HANG_TIMEOUT={self._hang_seconds:g}s): "
            f"{', '.join(each)}; start again, and if it happens again look at the tracebacks above"
        )


def dump_stacks(pids: Iterable[int]) -> None:
    """Have workers print where each of their threads stands."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    time.sleep(PRINTING_SECONDS)


def _phase(heartbeat: Heartbeat) -> Phase:
    return Phase(heartbeat.get("phase", Phase.START))


def _described(heartbeat: Heartbeat) -> str:
    phase = _phase(heartbeat)
    return f"{phase}, step {heartbeat['step'] + 1} of {heartbeat['total_steps']}" if phase == Phase.TRAIN else phase
