"""The `verify` command, step by step."""

from dataclasses import replace

from mnrl_job.config.settings import Settings
from mnrl_job.errors import DataError
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import run_workers
from mnrl_job.runs.attempt import work_dir
from mnrl_job.runs.verify import verify_run
from mnrl_job.storage import open_store
from mnrl_job.system.devices import find_devices
from mnrl_job.system.files import scratch_folder
from mnrl_job.system.home import provide_home
from mnrl_job.system.machine import translate_disk_full
from mnrl_job.system.preemption import raise_on_signal
from mnrl_job.worker.results import Verification


def verify(uri: str, settings: Settings) -> Verification | None:
    """Verify a published run: marker, manifest, every hash, and that the model reloads to the same embeddings.

    Returns:
        How the embeddings of the reloaded model compare; None for a run of `evaluate` or an export.

    Raises:
        JobError: the run is missing, unfinished or damaged; or the storage does not answer.
    """
    with raise_on_signal(), scratch_folder(work_dir(settings.work_dir)) as scratch, translate_disk_full(scratch):
        store = open_store(uri, "URI", settings.s3_addressing_style)
        provide_home(scratch)
        folder = verify_run(store, scratch / "run")
        if not (folder / "verification.json").exists():
            return None
        task = WorkerTask(settings, "", scratch, folder, eval_sets=(), inputs={})
        try:
            device = replace(find_devices(settings.num_processes), workers=1)
            timeouts = WorkerTimeouts(settings.hang_timeout.seconds, settings.grace_period.seconds)
            return run_workers("verify_published", task, device, timeouts, "verified.json", Verification)
        except DataError as error:
            raise DataError(
                f"{uri}: every file is as published, but {error}; compare `environment` in its metrics.json with here"
            ) from error
