"""Report the results of a run to its trackers, each in a process of its own that can be killed.

`python -m mnrl_job.tracking.results NAME FILE` is that process; it never fails.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree
from typing import Any, Literal

from mnrl_job.system import logs
from mnrl_job.system.parent_death import SUPERVISOR, die_with_supervisor
from mnrl_job.system.record_files import read_record, write_record
from mnrl_job.tracking.packages import disabled_warning
from mnrl_job.tracking.run import TrackedRun
from mnrl_job.tracking.trackers import TRACKERS

TIMEOUT_SECONDS = 60.0
OFFLINE = "offline-run-*"


@dataclass(frozen=True, slots=True)
class Results:
    """The content of `metrics.json` and the path of `report.html`, for these trackers."""

    run: TrackedRun
    trackers: tuple[str, ...]
    metrics: dict[str, Any]
    page: Path
    log_format: Literal["auto", "text", "json"]


def log_to_files(results: Results) -> None:
    """Report to trackers that write files below the staging folder. Call it before publishing."""
    _log(results, [name for name in results.trackers if _writes_files(name, results.run)])
    for folder in results.run.wandb_folder.glob(OFFLINE):
        target = results.run.staging / "wandb" / folder.name
        try:
            copytree(folder, target, ignore=ignore_patterns("logs", "tmp"), ignore_dangling_symlinks=True)
        except OSError as error:
            logs.warn(disabled_warning("wandb", error))
            rmtree(target, ignore_errors=True)  # a partial copy could not be synced


def log_to_servers(results: Results) -> None:
    """Report to the other trackers. Call it once the run is published."""
    _log(results, [name for name in results.trackers if not _writes_files(name, results.run)])


def _writes_files(name: str, run: TrackedRun) -> bool:
    offline = os.environ.get("WANDB_MODE") == "offline" or any(run.wandb_folder.glob(OFFLINE))
    return name == "tensorboard" or (name == "wandb" and offline)


def _log(results: Results, names: list[str]) -> None:
    """Report in parallel, within one timeout. Kills whatever the processes have started."""
    task = results.run.scratch / "results.json"
    write_record(task, results)
    environment = os.environ | {SUPERVISOR: str(os.getpid())}
    deadline = time.monotonic() + TIMEOUT_SECONDS
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "mnrl_job.tracking.results", name, str(task)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # stdout of the run is for its table of metrics
            start_new_session=True,
        )
        for name in names
        if not results.run.disabled_marker(name).exists()
    }
    try:
        for name, process in processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logs.warn(disabled_warning(name, f"it did not accept the results within {TIMEOUT_SECONDS:g} s"))
    finally:
        for process in processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    die_with_supervisor()
    name, path = sys.argv[1:]
    results = read_record(Path(path), Results)
    logs.set_up(results.log_format)
    try:
        tracker = TRACKERS[name]()
        tracker.start(results.run)
        tracker.log_results(results.metrics, results.page)
        tracker.finish(results.metrics["status"] == "succeeded")
    except (Exception, SystemExit) as error:
        logs.warn(disabled_warning(name, error))
    sys.stderr.flush()
    os._exit(0)  # do not wait for threads and exit hooks of the tracker


if __name__ == "__main__":
    main()
