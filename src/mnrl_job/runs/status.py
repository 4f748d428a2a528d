"""Where the run is, for whoever asks: `progress.json` in the work folder, and Kubeflow where it listens."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnrl_job.launch.kubeflow import Reporter
from mnrl_job.system import timestamps
from mnrl_job.system.json_text import dumps
from mnrl_job.system.logs import SECONDS_BETWEEN_LINES, log, warn
from mnrl_job.system.phases import EXPORT, JOIN, LOAD, PATIENCE_AT_FIRST, START
from mnrl_job.system.preemption import raise_if_stop_requested
from mnrl_job.system.record_files import write_text

SECONDS_BETWEEN_WRITES = 1.0
# Only a run that is published is done.
MOST_PERCENT_BEFORE_THE_END = 99
# For all that is neither a step, nor saving, nor uploading: noticing the request, ending the processes.
LEAVING_SECONDS = 3.0
# Of these it is told only when they begin.
SILENT = ("starting", "fetch", "prepare", JOIN, START, LOAD, "verify", EXPORT, "publish", "done")


class Status:
    """What the supervisor knows of its run, and the times that a stop on request will take.

    Attributes:
        phase: of the story, such as `fetch` or `train`.

    Args:
        path: of `progress.json`.
        run_id: names the run.
        grace_seconds: so long it has to end, once it is asked to.
        hang_seconds: so long it may stand still.
        reports: whether this node speaks for the run.
    """

    def __init__(
        self, path: Path, run_id: str, grace_seconds: float, hang_seconds: float, reports: bool = True
    ) -> None:
        self.phase = "starting"
        self._path = path
        self._run = {"run_id": run_id, "started_at": timestamps.now()}
        self._facts: dict[str, Any] = {}
        self._grace = grace_seconds
        self._hang = hang_seconds
        self._warned = False
        self._written = 0.0
        self._began = self._logged = self._entered = time.monotonic()
        self._waited = 0.0
        self._kubeflow = Reporter.from_environment() if reports else None
        self._tell()

    @property
    def step(self) -> int:
        """That training has reached."""
        return int(self._facts.get("step", 0))

    def enter(self, phase: str) -> None:
        """The story goes on with another step."""
        self._waited = self._seconds_waited()
        self.phase, self._entered, self._written = phase, time.monotonic(), 0.0
        self._tell()

    def follow(self, beat: dict[str, Any]) -> None:
        """The first worker got on, see `system/heartbeat.py`."""
        if not beat:
            return
        self._facts |= {name: value for name, value in beat.items() if name not in ("doing", "beats")}
        if beat["doing"] != self.phase:
            self.enter(beat["doing"])
        elif time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self._tell()

    def progress(self, facts: dict[str, Any]) -> None:
        """The supervisor itself got on, with what it reads or prepares: so much of each of the facts is done."""
        self._facts |= facts
        now = time.monotonic()
        if now - self._written >= SECONDS_BETWEEN_WRITES:
            self._tell()
        if facts and now - self._logged >= SECONDS_BETWEEN_LINES:
            self._logged = now
            done = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in facts.items())
            log(f"{self.phase}: {done} so far", **facts)

    @property
    def got_nowhere(self) -> bool:
        """Whether this attempt took longer than a run may stand still, and kept nothing for the next to go on from.

        Waiting for other nodes to join does not count: that is no work, which the next attempt would do again.
        """
        seconds = time.monotonic() - self._began - self._seconds_waited()
        return "checkpoint_step" not in self._facts and seconds > self._hang

    def kept(self, step: int, seconds: float) -> None:
        """A checkpoint is at the run's place; sending it took so long. Warns where a stop would take too long."""
        self._facts |= {"checkpoint_step": step}
        times = {
            "a step": self._facts.get("step_seconds", 0.0),
            "saving": self._facts.get("save_seconds", 0.0),
            "uploading": seconds,
        }
        needed = sum(times.values()) + LEAVING_SECONDS
        if needed > self._grace and not self._warned:
            self._warned = True
            told = ", ".join(f"{name} {value:.1f} s" for name, value in times.items())
            warn(
                f"a stop on request takes about {needed:.0f} s ({told}), longer than MNRL_GRACE_PERIOD "
                f"({self._grace:g} s): a pre-empted run would go on from the checkpoint before; raise "
                "terminationGracePeriodSeconds (docker stop -t) and MNRL_GRACE_PERIOD"
            )

    def finish(self) -> None:
        """The run is published."""
        self.phase, self._facts = "done", self._facts | {"eta_seconds": 0}
        self._tell()

    def close(self) -> None:
        """Say the last word, also of a run that failed."""
        if self._kubeflow:
            self._kubeflow.close()

    def content(self) -> dict[str, Any]:
        """What `progress.json` holds."""
        facts = self._facts
        share = int(100 * facts["step"] / facts["total_steps"]) if "total_steps" in facts else 0
        percent = 100 if self.phase == "done" else min(share, MOST_PERCENT_BEFORE_THE_END)
        patience = self._hang * (PATIENCE_AT_FIRST if self.phase in SILENT else 1)
        told = {"phase": self.phase, "percent": percent, "stale_after_seconds": patience}
        return self._run | told | facts | {"updated_at": timestamps.now()}

    def _seconds_waited(self) -> float:
        return self._waited + (time.monotonic() - self._entered if self.phase == JOIN else 0.0)

    def _tell(self) -> None:
        self._written = time.monotonic()
        content = self.content()
        with suppress(OSError):  # the run is more than its progress
            write_text(self._path, dumps(content, indent=2))
        if self._kubeflow:
            self._kubeflow.report(content)


class Clock:
    """How long each step took, in seconds; the status says which one it is."""

    def __init__(self, status: Status) -> None:
        self.seconds: dict[str, float] = {}
        self._status = status

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        self._status.enter(step)
        began = time.perf_counter()
        yield
        raise_if_stop_requested()
        self.seconds[step] = time.perf_counter() - began
