"""The process on a device: evaluate before, train, evaluate after, save. Ranks meet only here.

Started by the supervisor once per device, by way of `__main__`.
"""

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from huggingface_hub.utils.tqdm import enable_progress_bars
from transformers.utils.logging import disable_progress_bar

from mnrl_job.config.settings import Settings
from mnrl_job.embedding.out_of_memory import is_out_of_memory
from mnrl_job.errors import EnvironmentFailure, JobError, OutOfMemory, first_line
from mnrl_job.launch.error_files import worker_main
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system import logs
from mnrl_job.system.machine import disk_full_error
from mnrl_job.system.phases import SILENT_PHASE_FACTOR
from mnrl_job.system.record_files import read_record
from mnrl_job.training.distributed import open_host_group
from mnrl_job.training.fsdp import apply_accelerate_config, shard_on_processors
from mnrl_job.training.process_group import process_group
from mnrl_job.worker.roles import evaluate_role, export_role, recheck_role, train_role, trial_run_role, verify_role


def explain(error: Exception, scratch: Path) -> JobError | None:
    """Which of our errors a library's exception is, if any."""
    if is_out_of_memory(error):
        return OutOfMemory(f"out of device memory: {first_line(error)}; lower MNRL_BATCH_SIZE or MNRL_MAX_SEQ_LENGTH")
    return disk_full_error(error, scratch)


def run(role: Callable[[WorkerTask], None], path: Path) -> None:
    """Set the process up and do its part of the task that stands there."""
    task = read_record(path, WorkerTask)
    faulthandler.register(signal.SIGUSR1)  # the supervisor asks where a hanging worker stands
    on_cpu = bool(os.environ.get("ACCELERATE_USE_CPU"))
    if not on_cpu and not torch.cuda.is_available():
        raise EnvironmentFailure(
            f"the driver shows a GPU, but torch {torch.__version__} cannot use it; install a torch build for this "
            "driver, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    settings = Settings.model_validate(task.settings)
    if settings.accelerate_config:
        apply_accelerate_config(settings.accelerate_config)
    # The supervisor's watchdog is to notice first, since it can tell what hangs.
    timeout = timedelta(seconds=2 * SILENT_PHASE_FACTOR * settings.hang_timeout.seconds)
    state = PartialState(cpu=on_cpu, timeout=timeout, **process_group(timeout))
    open_host_group(timeout)
    shard_on_processors(state)
    logs.set_up(task.settings["log_format"], quiet=not state.is_main_process)
    disable_progress_bar()
    if logs.shows_progress():
        enable_progress_bars()  # the Hub's: a download may take minutes, loading from disk does not
    role(task)
    # Only after success: on failure the cause must be written down first, and tearing down may wait for the others.
    state.destroy_process_group()


ROLES = {
    "train": train_role,
    "evaluate": evaluate_role,
    "rehearse": trial_run_role,
    "verify": verify_role,
    "recheck": recheck_role,
    "export": export_role,
}


def main() -> None:
    """The whole life of the process, which ends here."""
    role, path = sys.argv[1:]
    body = partial(run, ROLES[role], Path(path))
    worker_main(body, partial(explain, scratch=Path(path).parent))
