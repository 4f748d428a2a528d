"""Starts one worker per device, monitors and stops them, and finds the root cause of a failure.

The supervisor starts the workers itself, with the environment variables of `accelerate` and torch.distributed: a
launcher replaces exit codes (`accelerate launch` and torchrun turn each into 1), and imports torch once more (1.5 s).
A worker that fails writes an error file.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.errors import HangTimeout
from mnrl_job.launch.error_files import ERROR_FILE, WAIT_FOR_TASK, root_cause
from mnrl_job.launch.watchdog import Watchdog, WorkerTimeouts, dump_stacks
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system import heartbeat
from mnrl_job.system.cpus import usable_cpus
from mnrl_job.system.devices import VISIBLE, Devices
from mnrl_job.system.local_rank import STORE, WORKER
from mnrl_job.system.logs import log
from mnrl_job.system.machine import oom_kills
from mnrl_job.system.parent_death import SUPERVISOR
from mnrl_job.system.preemption import defer_preemption, raise_if_stop_requested, seconds_since_stop_requested
from mnrl_job.system.record_files import Record, read_record, write_record

TASK = "task.json"
POLL_SECONDS = 0.05
STOP_SECONDS = 20.0
# Of the grace period; the rest is for uploading a checkpoint and exiting.
WORKERS_GRACE_FRACTION = 0.85
SIBLINGS_SECONDS = 2.0
# For what libraries print to stdout, which is for the table of metrics.
STDERR = 2
# Set by launchers and schedulers for workers that they start; these workers get their own.
WORKER_VARIABLES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}

# Options of torch's allocator.
ALLOCATOR = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}


def run_workers(
    role: str, task: WorkerTask, devices: Devices, timeouts: WorkerTimeouts, result_file: str, result_type: type[Record]
) -> Record:
    """Start workers and run a task, see `WorkerGroup.run`."""
    with start_workers(role, task.scratch, devices, timeouts) as workers:
        return workers.run_once(task, result_file, result_type)


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Workers that import their modules, which takes seconds, and wait for a task.

    `oom_kills` is the number of processes that the kernel killed before because memory was exhausted.
    """

    role: str
    devices: Devices
    timeouts: WorkerTimeouts
    processes: list[subprocess.Popen[bytes]]
    folder: Path
    oom_kills: int

    def run(self, task: WorkerTask, result_file: str, result_type: type[Record]) -> Record:
        """Run a task and read its result, which the first worker writes to `result_file` in the scratch folder.

        Raises:
            JobError: the root cause, as reported by the worker that failed.
        """
        if any(process.poll() is not None for process in self.processes):
            # A verifier that was killed while it waited must not fail a finished training.
            return run_workers(self.role, task, self.devices, self.timeouts, result_file, result_type)
        return self.run_once(task, result_file, result_type)

    def run_once(self, task: WorkerTask, result_file: str, result_type: type[Record]) -> Record:
        """As `run`, but without replacing workers that have exited."""
        write_record(task.scratch / TASK, task)
        if self.processes:
            log("reloading the saved model to verify it" if self.role == "verify" else "loading PyTorch and the model")
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
        watchdog = Watchdog(self._heartbeats, self.timeouts.hang_seconds, self.timeouts.on_heartbeat)
        _wait(self.processes, watchdog, self.folder)
        self.timeouts.on_heartbeat(self._heartbeats()["worker 0"])
        if any(process.returncode for process in self.processes):
            codes = [process.returncode for process in self.processes]
            raise root_cause(self.folder, codes, oom_kills() - self.oom_kills)
        return read_record(task.scratch / result_file, result_type)

    def _heartbeats(self) -> dict[str, dict[str, Any]]:
        ranks = range(len(self.processes))
        return {f"worker {rank}": heartbeat.last_heartbeat(self.folder / f"heartbeat-{rank}.json") for rank in ranks}


@contextmanager
def start_workers(role: str, scratch: Path, devices: Devices, timeouts: WorkerTimeouts) -> Iterator[WorkerGroup]:
    """Run `python -m mnrl_job.worker ROLE TASK` in `devices.workers` processes, until the context ends.

    Args:
        role: of the workers (`train`, `evaluate`, `verify`, `export`).
        scratch: folder of the task file and the workers' error files.
        devices: number of workers, and their GPUs.
        timeouts: of the workers.
    """
    folder = scratch / "workers" / role
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shared = {SUPERVISOR: str(os.getpid()), WAIT_FOR_TASK: "1"}
    if devices.workers > 1:
        # Workers on one machine need no network: they rendezvous through a file and communicate over loopback.
        shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(devices.workers)) | {
            STORE: str(folder / "store")
        }
        shared |= {name: os.environ.get(name, "lo") for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    command = worker_command(role, scratch)
    processes: list[subprocess.Popen[bytes]] = []
    oom_kills_before = oom_kills()
    try:
        for rank in range(devices.workers):
            environment = worker_environment(devices) | shared | worker_identity(devices, folder, rank)
            if devices.workers > 1:
                environment |= {"RANK": str(rank)} | local_rank_variables(devices, rank)
            with defer_preemption():  # an exception here would leave the new process running
                worker = subprocess.Popen(
                    command, env=environment, start_new_session=True, stdin=subprocess.PIPE, stdout=STDERR
                )
                processes.append(worker)
        yield WorkerGroup(role, devices, timeouts, processes, folder, oom_kills_before)
    except HangTimeout:
        for process in processes:
            process.kill()  # a hung process does not react to SIGTERM
        raise
    finally:
        stop(processes, timeouts)


def worker_command(role: str, scratch: Path) -> list[str]:
    """The command line of a worker."""
    return [sys.executable, "-m", "mnrl_job.worker", role, str(scratch / TASK)]


def worker_identity(devices: Devices, folder: Path, rank: int) -> dict[str, str]:
    """Environment variables of one worker of a machine: its files and its device."""
    files = {ERROR_FILE: str(folder / f"rank-{rank}.json"), heartbeat.FILE: str(folder / f"heartbeat-{rank}.json")}
    # One GPU, since CUDA supports one MIG instance per process, and the trainer uses all visible GPUs (DataParallel).
    return files | ({VISIBLE: devices.gpus[rank]} if devices.gpus else {})


def local_rank_variables(devices: Devices, rank: int) -> dict[str, str]:
    """Local rank of one worker of a machine; libraries use `LOCAL_RANK` as the index of its visible device."""
    return {WORKER: str(rank), "LOCAL_RANK": "0" if devices.gpus else str(rank)}


def worker_environment(devices: Devices) -> dict[str, str]:
    """Environment variables of all workers of a machine: the supervisor's without its settings, and tuning."""
    # The callback of transformers would report 100 % to Kubeflow when training ends.
    foreign = ("MNRL_", "TORCHELASTIC_", "KUBEFLOW_TRAINER_SERVER_")
    inherited = {
        name: os.environ[name] for name in os.environ.keys() - WORKER_VARIABLES if not name.startswith(foreign)
    }
    threads = str(max(1, usable_cpus() // devices.workers))
    defaults = {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
    defaults["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # it warns of hosts without a name and of each attempt to connect
    if "OMP_WAIT_POLICY" not in inherited:
        # Waiting threads must sleep soon: beside busy processes they take CPU time from the threads they wait for.
        defaults["GOMP_SPINCOUNT"] = "10000"
    # Compiled matrix products; the default of 1,024 is less than the number of shapes in a run.
    defaults["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "8192"
    if not devices.gpus:
        return defaults | inherited | {"ACCELERATE_USE_CPU": "true"}
    if not inherited.keys() & ALLOCATOR:
        # Chunk sizes vary from step to step, which fragments the memory otherwise.
        defaults["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    # NCCL rejects two MIG instances of one GPU otherwise.
    if any(name.startswith("MIG-") for name in devices.gpus):
        defaults["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    return defaults | inherited


def _wait(workers: list[subprocess.Popen[bytes]], watchdog: Watchdog, folder: Path) -> None:
    """Wait until all workers have exited, or one has failed and the others had a moment to exit too.

    Raises:
        HangTimeout: none of them makes progress; they have dumped their stacks.
    """
    deadline = None
    # All are polled, since a rank that failed may have left lower ranks stuck.
    while None in (codes := [worker.poll() for worker in workers]):
        raise_if_stop_requested()  # the exception of the signal handler is lost if raised in a destructor
        try:
            watchdog.poll()
        except HangTimeout:
            dump_stacks((worker.pid for worker, code in zip(workers, codes, strict=True) if code is None), folder)
            raise
        if deadline is None and any(codes):
            deadline = time.monotonic() + SIBLINGS_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(POLL_SECONDS)


def stop(workers: list[subprocess.Popen[bytes]], timeouts: WorkerTimeouts) -> None:
    """Send SIGTERM, wait for the rest of the grace period, then send SIGKILL."""
    running = [worker for worker in workers if worker.poll() is None]
    for worker in running:
        worker.terminate()
    since = seconds_since_stop_requested()
    deadline = time.monotonic() + (WORKERS_GRACE_FRACTION * timeouts.grace_seconds - since if since else STOP_SECONDS)
    for worker in running:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
