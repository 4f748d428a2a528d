"""The results of a run on their way to its trackers: a process for each, so that none can hold the run up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree
from typing import Any, Literal

from mnrl_job.system.logs import warn
from mnrl_job.system.parent_death import SUPERVISOR
from mnrl_job.system.record_files import write_record
from mnrl_job.tracking.tracked import TrackedRun
from mnrl_job.tracking.trackers import left_out

SECONDS = 60.0
OFFLINE = "offline-run-*"


@dataclass(frozen=True, slots=True)
class Results:
    """What is told to trackers at the end: `content` is that of `metrics.json`, `page` is `report.html`."""

    run: TrackedRun
    trackers: tuple[str, ...]
    content: dict[str, Any]
    page: Path
    log_format: Literal["auto", "text", "json"]


def into_files(results: Results) -> None:
    """Add them to the trackers that write files, which then stand in the staging folder; before it is published."""
    _hand_over(results, [name for name in results.trackers if _writes_files(name, results.run)])
    for folder in results.run.wandb_folder.glob(OFFLINE):
        target = results.run.staging / "wandb" / folder.name
        try:
            copytree(folder, target, ignore=ignore_patterns("logs", "tmp"), ignore_dangling_symlinks=True)
        except OSError as error:
            warn(left_out("wandb", error))
            rmtree(target, ignore_errors=True)  # a part of it could not be sent


def to_servers(results: Results) -> None:
    """Add them to the other trackers; once the run is published."""
    _hand_over(results, [name for name in results.trackers if not _writes_files(name, results.run)])


def _writes_files(name: str, run: TrackedRun) -> bool:
    offline = os.environ.get("WANDB_MODE") == "offline" or any(run.wandb_folder.glob(OFFLINE))
    return name == "tensorboard" or (name == "wandb" and offline)


def _hand_over(results: Results, names: list[str]) -> None:
    """Wait for all of them at once. One that was left out while the model was trained is not asked again."""
    asked = [name for name in names if not results.run.left_out_mark(name).exists()]
    if not asked:
        return
    task = results.run.scratch / "results.json"
    write_record(task, results)
    deadline = time.monotonic() + SECONDS
    with _started(asked, task) as processes:
        for name, process in processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                warn(left_out(name, f"it did not take the results within {SECONDS:g} s"))


@contextmanager
def _started(names: list[str], task: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """A process for each tracker; none outlives the context, nor do those that it started."""
    environment = os.environ | {SUPERVISOR: str(os.getpid())}
    processes = {}
    try:
        for name in names:
            command = [sys.executable, "-m", "mnrl_job.tracking.log_results", name, str(task)]
            processes[name] = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # ours is for the table of metrics
                start_new_session=True,
            )
        yield processes
    finally:
        for process in processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
