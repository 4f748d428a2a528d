"""Detects that no worker makes progress any more."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.errors import HangTimeout
from mnrl_job.system.heartbeat import STACKS
from mnrl_job.system.logs import warn
from mnrl_job.system.phases import Phase

SECONDS_BETWEEN_POLLS = 0.5
MAX_STEP_SECONDS = 2.0
# Time for workers to dump their stacks.
DUMP_SECONDS = 1.0

Heartbeat = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerTimeouts:
    """Timeouts of workers: without progress of any worker, and between SIGTERM and SIGKILL of the job.

    `on_heartbeat` is called with the heartbeat of the first worker when any worker makes progress.
    """

    hang_seconds: float
    grace_seconds: float
    on_heartbeat: Callable[[Heartbeat], None] = lambda _heartbeat: None


class Watchdog:
    """Polls the heartbeats of workers: `read` returns the last ones by the worker's name.

    A worker that waits for another makes no progress either, so it is a hang only if none of them does for
    `hang_seconds`. The time is added up between polls, and limited for each, so that setting the clock or suspending
    the machine does not matter. `on_heartbeat` is called with the first heartbeat when any of them changed.
    """

    def __init__(
        self,
        read: Callable[[], dict[str, Heartbeat]],
        hang_seconds: float,
        on_heartbeat: Callable[[Heartbeat], None] = lambda _heartbeat: None,
    ) -> None:
        self._read = read
        self._hang_seconds = hang_seconds
        self._on_heartbeat = on_heartbeat
        self._heartbeats: dict[str, Heartbeat] = {}
        self._stalled_seconds = 0.0
        self._polled_at = time.monotonic()

    def poll(self) -> None:
        """Poll, if it is time to.

        Raises:
            HangTimeout: no worker made progress for too long.
        """
        passed = time.monotonic() - self._polled_at
        if passed < SECONDS_BETWEEN_POLLS:
            return
        self._polled_at += passed
        heartbeats = self._read()
        if heartbeats != self._heartbeats or not heartbeats:
            self._stalled_seconds = 0.0
            self._on_heartbeat(next(iter(heartbeats.values()), {}))
        else:
            self._stalled_seconds += min(passed, MAX_STEP_SECONDS)
        self._heartbeats = heartbeats
        factor = max((_phase(heartbeat).timeout_factor for heartbeat in heartbeats.values()), default=1)
        if self._stalled_seconds > self._hang_seconds * factor:
            raise HangTimeout(self._description())

    def _description(self) -> str:
        each = (f"{name} at {_described(heartbeat)}" for name, heartbeat in self._heartbeats.items())
        return (
            f"no worker made progress for {self._stalled_seconds:.0f} s (MNRL_HANG_TIMEOUT={self._hang_seconds:g}s): "
            f"{', '.join(each)}; start again; if it happens again, see the stacks above"
        )


def dump_stacks(pids: Iterable[int], folder: Path) -> None:
    """Have workers write the stacks of their threads to files in their folder, and log them."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    time.sleep(DUMP_SECONDS)
    for path in sorted(folder.glob(f"*{STACKS}")):
        if stacks := path.read_text(errors="replace").rstrip():
            warn(f"stacks of a worker without progress\n{stacks}")


def _phase(heartbeat: Heartbeat) -> Phase:
    return Phase(heartbeat.get("phase", Phase.START))


def _described(heartbeat: Heartbeat) -> str:
    phase = _phase(heartbeat)
    return f"{phase}, step {heartbeat['step'] + 1} of {heartbeat['total_steps']}" if phase == Phase.TRAIN else phase
