"""The status of a run: `progress.json` in the work folder, and Kubeflow where it listens."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnrl_job.launch.kubeflow import URL, Reporter
from mnrl_job.system import timestamps
from mnrl_job.system.json_text import dumps
from mnrl_job.system.logs import SECONDS_BETWEEN_LINES, log, warn
from mnrl_job.system.phases import Phase
from mnrl_job.system.preemption import raise_if_stop_requested
from mnrl_job.system.record_files import write_text

SECONDS_BETWEEN_WRITES = 1.0
# Only a published run is at 100 %.
MAX_PERCENT_BEFORE_DONE = 99
# On preemption, beside the step, saving and uploading: noticing the signal and ending the processes.
SHUTDOWN_SECONDS = 3.0


class Status:
    """Phase and progress of a run in `path`, `progress.json`, and how long a preemption will take.

    `grace_seconds` is the time between SIGTERM and SIGKILL; after `hang_seconds` without progress workers are aborted.
    `reports`: whether this node reports to Kubeflow.
    """

    def __init__(
        self, path: Path, run_id: str, grace_seconds: float, hang_seconds: float, reports: bool = True
    ) -> None:
        self.phase = Phase.STARTING
        self._path = path
        self._run = {"run_id": run_id, "started_at": timestamps.now()}
        self._facts: dict[str, Any] = {}
        self._grace_seconds = grace_seconds
        self._hang_seconds = hang_seconds
        self._warned = False
        self._written_at = 0.0
        self._started = self._logged_at = self._entered_at = time.monotonic()
        self._seconds_joining_before = 0.0
        url = os.environ.get(URL)  # in a TrainJob
        self._kubeflow = Reporter(url) if reports and url else None
        self._write()

    @property
    def step(self) -> int:
        """The last training step."""
        return int(self._facts.get("step", 0))

    @property
    def made_no_progress(self) -> bool:
        """Whether this attempt took longer than the hang timeout without uploading a checkpoint to resume from.

        Waiting for other nodes to join does not count.
        """
        seconds = time.monotonic() - self._started - self._seconds_joining()
        return "checkpoint_step" not in self._facts and seconds > self._hang_seconds

    def enter_phase(self, phase: Phase) -> None:
        self._seconds_joining_before = self._seconds_joining()
        self.phase, self._entered_at = phase, time.monotonic()
        self._write()

    def on_heartbeat(self, heartbeat: dict[str, Any]) -> None:
        """Take over phase and facts of the first worker, see `system/heartbeat.py`."""
        if not heartbeat:
            return
        self._facts |= {name: value for name, value in heartbeat.items() if name not in ("phase", "heartbeats")}
        phase = Phase(heartbeat["phase"])
        if phase != self.phase:
            self.enter_phase(phase)
        else:
            self._write_if_due()

    def on_progress(self, facts: dict[str, Any]) -> None:
        """Take over, and log now and then, facts of the supervisor's own phases, such as `rows_read`."""
        changed = {name: value for name, value in facts.items() if self._facts.get(name) != value}
        self._facts |= facts
        self._write_if_due()
        now = time.monotonic()
        if changed and now - self._logged_at >= SECONDS_BETWEEN_LINES:  # facts of an earlier phase stay as they are
            self._logged_at = now
            done = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in changed.items())
            log(f"{self.phase}: {done} so far", **changed)

    def on_checkpoint(self, step: int, upload_seconds: float) -> None:
        """Note an uploaded checkpoint. Warns where a preemption would take longer than the grace period."""
        self._facts |= {"checkpoint_step": step}
        seconds = {
            "a step": self._facts.get("step_seconds", 0.0),
            "saving": self._facts.get("save_seconds", 0.0),
            "writing it to the output": upload_seconds,
        }
        needed = sum(seconds.values()) + SHUTDOWN_SECONDS
        if needed > self._grace_seconds and not self._warned:
            self._warned = True
            parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
            warn(
                f"stopping on SIGTERM takes about {needed:.0f} s ({parts}), longer than MNRL_GRACE_PERIOD "
                f"({self._grace_seconds:g} s): a preempted run would resume from the checkpoint before; raise "
                "terminationGracePeriodSeconds (docker stop -t) and MNRL_GRACE_PERIOD"
            )

    def finish(self) -> None:
        """The run is published."""
        self.phase, self._facts = Phase.DONE, self._facts | {"eta_seconds": 0}
        self._write()

    def close(self) -> None:
        """Send the last report, also of a run that failed."""
        if self._kubeflow:
            self._kubeflow.close()

    def snapshot(self) -> dict[str, Any]:
        """The content of `progress.json`."""
        facts = self._facts
        trained = int(100 * facts["step"] / facts["total_steps"]) if "total_steps" in facts else 0
        percent = 100 if self.phase == Phase.DONE else min(trained, MAX_PERCENT_BEFORE_DONE)
        stale_after = self._hang_seconds * self.phase.timeout_factor
        state = {"phase": self.phase, "percent": percent, "stale_after_seconds": stale_after}
        return self._run | state | facts | {"updated_at": timestamps.now()}

    def _seconds_joining(self) -> float:
        since = time.monotonic() - self._entered_at if self.phase == Phase.JOIN else 0.0
        return self._seconds_joining_before + since

    def _write_if_due(self) -> None:
        if time.monotonic() - self._written_at >= SECONDS_BETWEEN_WRITES:
            self._write()

    def _write(self) -> None:
        self._written_at = time.monotonic()
        snapshot = self.snapshot()
        with suppress(OSError):  # a full disk must not end the run here
            write_text(self._path, dumps(snapshot, indent=2))
        if self._kubeflow:
            self._kubeflow.report(snapshot)


class PhaseTimer:
    """Enters the phases of the supervisor and measures them, in `seconds`."""

    def __init__(self, status: Status) -> None:
        self.seconds: dict[str, float] = {}
        self._status = status

    @contextmanager
    def __call__(self, phase: Phase) -> Iterator[None]:
        self._status.enter_phase(phase)
        started = time.perf_counter()
        yield
        raise_if_stop_requested()
        self.seconds[phase] = time.perf_counter() - started
