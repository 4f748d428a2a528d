"""The supervisor's eye on its workers: whether any of them still gets on."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.errors import Hang
from mnrl_job.runtime.heartbeat import last_beat

SECONDS_BETWEEN_LOOKS = 0.5
LONGEST_PAUSE_SECONDS = 2.0
# Time for workers to print where they stand.
PRINTING_SECONDS = 1.0
START, LOAD, EXPORT = "start", "load", "export"
# Importing, loading and exporting make no sign of life, and a model may first have to be downloaded.
PATIENCE_AT_FIRST = 10

Beat = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Care:
    """How workers are looked after.

    Attributes:
        hang_seconds: so long none of them may be without a sign of life.
        grace_seconds: so long the whole job has to end, once it is asked to.
        follow: is told what the first worker does.
    """

    hang_seconds: float
    grace_seconds: float
    follow: Callable[[Beat], None] = lambda _beat: None


class Watch:
    """Looks at the heartbeats of some workers.

    A worker that waits for another makes no sign of life either, so they hang only when none of them makes one. The
    time is counted here, look by look: neither a clock that is set nor a machine that slept makes it jump.

    Args:
        paths: the heartbeat files of the workers, by rank.
        care: how long they may be silent, and who wants to know.
    """

    def __init__(self, paths: Sequence[Path], care: Care) -> None:
        self._paths = paths
        self._care = care
        self._beats: list[Beat] = [{} for _ in paths]
        self._silent = 0.0
        self._looked = time.monotonic()

    def look(self, workers: Sequence[subprocess.Popen[bytes]]) -> None:
        """Look, if it is time to.

        Raises:
            Hang: none has got on for too long. Each that can has printed where it stands.
        """
        passed = time.monotonic() - self._looked
        if passed < SECONDS_BETWEEN_LOOKS:
            return
        self._looked += passed
        beats = [last_beat(path) for path in self._paths]
        if beats != self._beats:
            self._silent = 0.0
            self._care.follow(beats[0])
        else:
            self._silent += min(passed, LONGEST_PAUSE_SECONDS)
        self._beats = beats
        early = any(_doing(beat) in (START, LOAD, EXPORT) for beat in beats)
        if self._silent > self._care.hang_seconds * (PATIENCE_AT_FIRST if early else 1):
            _have_them_print(workers)
            raise Hang(self._description())

    def _description(self) -> str:
        each = (f"worker {rank} stood at {_described(beat)}" for rank, beat in enumerate(self._beats))
        return (
            f"no worker got on for {self._silent:.0f} s (MNRL_HANG_TIMEOUT={self._care.hang_seconds:g}s): "
            f"{', '.join(each)}; start again, and if it happens again look at the tracebacks above"
        )


def _doing(beat: Beat) -> str:
    return str(beat.get("doing", START))


def _described(beat: Beat) -> str:
    doing = _doing(beat)
    return f"{doing}, step {beat['step'] + 1} of {beat['of']}" if doing == "train" else doing


def _have_them_print(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(signal.SIGUSR1)
    time.sleep(PRINTING_SECONDS)
