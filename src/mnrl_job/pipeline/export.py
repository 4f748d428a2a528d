"""The saved model in other formats."""

from mnrl_job.config.settings import Settings
from mnrl_job.launch.exporters import ROLE
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import run_workers
from mnrl_job.runs.attempt import Attempt
from mnrl_job.runs.status import PhaseTimer
from mnrl_job.system.devices import Devices
from mnrl_job.system.phases import Phase
from mnrl_job.worker.results import Export, Exports


def exported(settings: Settings, attempt: Attempt, timer: PhaseTimer, task: WorkerTask) -> tuple[Export, ...]:
    """The saved model in other formats, where any are asked for."""
    if not settings.export:
        return ()
    with timer(Phase.EXPORT):
        return ask_exports(task, attempt.timeouts)


def ask_exports(task: WorkerTask, timeouts: WorkerTimeouts) -> tuple[Export, ...]:
    """The saved model in the other formats that are asked for, made on the processor.

    Raises:
        JobError: it cannot be exported, or gives other embeddings then.
    """
    return run_workers(ROLE, task, Devices(gpus=(), workers=1), timeouts, "exports.json", Exports).exports
