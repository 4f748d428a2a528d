"""The process of one device, in one of several roles. The supervisor starts it as `python -m mnrl_job.worker`."""

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

from mnrl_job.embedding.out_of_memory import is_out_of_memory
from mnrl_job.errors import EnvironmentFailure, InternalError, JobError, OutOfMemory, first_line
from mnrl_job.launch.error_files import worker_main
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system import heartbeat, logs
from mnrl_job.system.machine import disk_full_error
from mnrl_job.system.phases import SILENT_PHASE_FACTOR
from mnrl_job.system.record_files import read_record
from mnrl_job.training.distributed import init_host_group
from mnrl_job.training.fsdp import apply_accelerate_config, enable_cpu_fsdp
from mnrl_job.training.process_group import process_group
from mnrl_job.worker.roles.evaluate import evaluate_role
from mnrl_job.worker.roles.export import export_role
from mnrl_job.worker.roles.tokenize import tokenize_role
from mnrl_job.worker.roles.train import train_role
from mnrl_job.worker.roles.trial_run import trial_run_role
from mnrl_job.worker.roles.verify import verify_published_role, verify_role


def explain(error: Exception, scratch: Path) -> JobError | None:
    """Convert a library's exception to a `JobError`; None if it is unknown."""
    if is_out_of_memory(error):
        return OutOfMemory(f"out of device memory: {first_line(error)}; lower MNRL_BATCH_SIZE or MNRL_MAX_SEQ_LENGTH")
    if (message := first_line(error)).startswith("DataLoader worker (pid"):
        return InternalError(
            f"a process that tokenizes batches died ({message}); start again; if it was killed, the machine may have "
            "run out of memory"
        )
    return disk_full_error(error, scratch)


def run_role(role: Callable[[WorkerTask], None], path: Path) -> None:
    """Set up the process, and run the task in the file at `path`."""
    task = read_record(path, WorkerTask)
    stacks = Path(os.environ[heartbeat.FILE]).with_suffix(heartbeat.STACKS)
    faulthandler.register(signal.SIGUSR1, file=stacks.open("w"))
    on_cpu = bool(os.environ.get("ACCELERATE_USE_CPU"))
    if not on_cpu and not torch.cuda.is_available():
        raise EnvironmentFailure(
            f"the driver lists a GPU, but torch {torch.__version__} cannot use it; install a torch build for this "
            "driver, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    settings = task.settings
    if settings.accelerate_config:
        apply_accelerate_config(settings.accelerate_config)
    # The supervisor's watchdog must notice a hang first, since it names the workers.
    timeout = timedelta(seconds=2 * SILENT_PHASE_FACTOR * settings.hang_timeout.seconds)
    state = PartialState(cpu=on_cpu, timeout=timeout, **process_group(timeout))
    init_host_group(timeout)
    enable_cpu_fsdp(state)
    logs.set_up(settings.log_format, quiet=not state.is_main_process)
    disable_progress_bar()
    if logs.shows_progress():
        enable_progress_bars()  # of downloads from the Hub; loading from disk needs none
    role(task)
    # Not after a failure: this may wait for other ranks, and the error file must be written first.
    state.destroy_process_group()


ROLES = {
    "train": train_role,
    "evaluate": evaluate_role,
    "trial_run": trial_run_role,
    "tokenize": tokenize_role,
    "verify": verify_role,
    "verify_published": verify_published_role,
    "export": export_role,
}


def main() -> None:
    """Run the worker; this function exits the process."""
    role, path = sys.argv[1:]
    body = partial(run_role, ROLES[role], Path(path))
    worker_main(body, partial(explain, scratch=Path(path).parent))
