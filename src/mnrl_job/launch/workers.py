"""The supervisor's side of the workers: start one per device, watch, stop, and learn the true cause of a failure.

A launcher's exit code cannot be trusted with a cause (`accelerate launch` and torchrun turn every code into 1), and a
launcher imports torch a second time (1.5 s here). So the supervisor starts the workers itself with the environment
that `accelerate` and torch.distributed read, and each worker that fails writes an error file that tells why.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.errors import HangTimeout
from mnrl_job.launch.error_files import OUTCOME, WAIT, root_cause
from mnrl_job.launch.exporters import python_of
from mnrl_job.launch.watchdog import Watchdog, WorkerTimeouts, dump_stacks
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system import heartbeat
from mnrl_job.system.cpus import usable_cpus
from mnrl_job.system.devices import VISIBLE, Devices
from mnrl_job.system.local_rank import STORE, WORKER
from mnrl_job.system.machine import oom_kills
from mnrl_job.system.parent_death import SUPERVISOR
from mnrl_job.system.preemption import defer_preemption, raise_if_stop_requested, seconds_since_stop_requested
from mnrl_job.system.record_files import Record, read_record, write_record

TASK = "task.json"
POLL_SECONDS = 0.05
STOP_SECONDS = 20.0
# Of the grace period; the rest is for uploading and leaving.
WORKERS_SHARE = 0.85
MALLOC = {"hugetlb": 1, "mmap_threshold": 2**32, "trim_threshold": 2**34}
SIBLINGS_SECONDS = 2.0
# Where workers' libraries print to; our standard output is for the table of metrics.
STDERR = 2
# What launchers and schedulers say to workers; ours are told by us.
FOR_WORKERS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}

# By which names users tell torch's allocator what to do.
ALLOCATOR = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}


def ask_workers(
    role: str, task: WorkerTask, devices: Devices, care: WorkerTimeouts, answer: str, kind: type[Record]
) -> Record:
    """Start workers and let them do a task, see `WorkerGroup.run`."""
    with start_workers(role, task.scratch, devices, care) as workers:
        return workers.tell(task, answer, kind)


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Workers that import what they need, which takes seconds, and wait for their task.

    `oom_kills` counts what the kernel had killed for want of memory before.
    """

    role: str
    devices: Devices
    care: WorkerTimeouts
    processes: list[subprocess.Popen[bytes]]
    outcomes: Path
    oom_kills: int

    def run(self, task: WorkerTask, answer: str, kind: type[Record]) -> Record:
        """Write the task down, let the workers do it, and read what the first leaves in the scratch file `answer`.

        Raises:
            JobError: the first failure, as the failing worker itself described it.
        """
        if any(process.poll() is not None for process in self.processes):
            # One that was killed while it only waited must not cost a finished training.
            with start_workers(self.role, task.scratch, self.devices, self.care) as anew:
                return anew.tell(task, answer, kind)
        return self.tell(task, answer, kind)

    def tell(self, task: WorkerTask, answer: str, kind: type[Record]) -> Record:
        """As `run`, of these very processes."""
        write_record(task.scratch / TASK, task)
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
        _wait(self.processes, Watchdog(self._heartbeats, self.care.hang_seconds, self.care.on_heartbeat))
        self.care.on_heartbeat(self._heartbeats()["worker 0"])
        if any(process.returncode for process in self.processes):
            codes = [process.returncode for process in self.processes]
            raise root_cause(self.outcomes, codes, oom_kills() - self.oom_kills)
        return read_record(task.scratch / answer, kind)

    def _heartbeats(self) -> dict[str, dict[str, Any]]:
        ranks = range(len(self.processes))
        return {f"worker {rank}": heartbeat.last_heartbeat(self.outcomes / f"heartbeat-{rank}.json") for rank in ranks}


@contextmanager
def start_workers(role: str, scratch: Path, devices: Devices, care: WorkerTimeouts) -> Iterator[WorkerGroup]:
    """Run `python -m mnrl_job.worker ROLE TASK` in `devices.workers` processes; none outlives the context.

    Args:
        role: what the workers do (`train`, `evaluate`, `verify`, `export`); it decides in which Python.
        scratch: where their task will stand, and where failing workers leave their error files.
        devices: how many workers, and whether they have GPUs; they find one another through torch.distributed's
            environment variables.
        care: how they are looked after.
    """
    outcomes = scratch / "outcomes" / role
    shutil.rmtree(outcomes, ignore_errors=True)
    outcomes.mkdir(parents=True)
    shared = {SUPERVISOR: str(os.getpid()), WAIT: "1"}
    if devices.workers > 1:
        # One machine's workers need no network: they find one another by a file, and speak over loopback.
        shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(devices.workers)) | {
            STORE: str(outcomes / "store")
        }
        shared |= {name: os.environ.get(name, "lo") for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    command = worker_command(role, scratch)
    processes: list[subprocess.Popen[bytes]] = []
    killed_before = oom_kills()
    try:
        for rank in range(devices.workers):
            environment = worker_environment(devices) | shared | worker_identity(devices, outcomes, rank)
            if devices.workers > 1:
                environment |= {"RANK": str(rank)} | local_rank_variables(devices, rank)
            with defer_preemption():  # or nobody would end a worker that has just begun
                worker = subprocess.Popen(
                    command, env=environment, start_new_session=True, stdin=subprocess.PIPE, stdout=STDERR
                )
                processes.append(worker)
        yield WorkerGroup(role, devices, care, processes, outcomes, killed_before)
    except HangTimeout:
        for process in processes:
            process.kill()  # what hangs, or waits for a node that is gone, does not hear a request
        raise
    finally:
        stop(processes, care)


def worker_command(role: str, scratch: Path) -> list[str]:
    """How a worker is started."""
    return [python_of(role), "-m", "mnrl_job.worker", role, str(scratch / TASK)]


def worker_identity(devices: Devices, outcomes: Path, rank: int) -> dict[str, str]:
    """What one worker of a machine has for itself: its files, its device."""
    own = {OUTCOME: str(outcomes / f"rank-{rank}.json"), heartbeat.FILE: str(outcomes / f"heartbeat-{rank}.json")}
    # One GPU, since CUDA shows one MIG instance only, and the trainer spreads over all it sees (DataParallel).
    return own | ({VISIBLE: devices.gpus[rank]} if devices.gpus else {})


def local_rank_variables(devices: Devices, rank: int) -> dict[str, str]:
    """Which of several workers of a machine it is; libraries take `LOCAL_RANK` for the number of its device."""
    return {WORKER: str(rank), "LOCAL_RANK": "0" if devices.gpus else str(rank)}


def worker_environment(devices: Devices) -> dict[str, str]:
    """What all workers of a machine have in common: ours without settings, how many threads, how memory is managed."""
    # The library's own report to Kubeflow would say 100 % when training ends.
    foreign = ("MNRL_", "TORCHELASTIC_", "KUBEFLOW_TRAINER_SERVER_")
    inherited = {name: os.environ[name] for name in os.environ.keys() - FOR_WORKERS if not name.startswith(foreign)}
    threads = str(max(1, usable_cpus() // devices.workers))
    defaults = {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
    defaults["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # it warns of hosts without a name, and of each try to connect
    if "OMP_WAIT_POLICY" not in inherited:
        # Threads that wait for others soon sleep: beside busy processes they take the time of those they wait for.
        defaults["GOMP_SPINCOUNT"] = "10000"
    # Of compiled matrix products: the usual 1,024 are fewer than the shapes of a run, and the oldest is dropped first.
    defaults["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "8192"
    # Activations in huge pages that are not given back after each step; a C library that lacks these ignores them.
    defaults["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{name}={value}" for name, value in MALLOC.items())
    if not devices.gpus:
        return defaults | inherited | {"ACCELERATE_USE_CPU": "true"}
    if not inherited.keys() & ALLOCATOR:
        # Chunks differ in size from step to step: without it, free memory ends up in blocks that none of them fits.
        defaults["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    # NCCL takes two instances of a GPU for a mistake unless it is told otherwise.
    if any(name.startswith("MIG-") for name in devices.gpus):
        defaults["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    return defaults | inherited


def _wait(workers: list[subprocess.Popen[bytes]], watch: Watchdog) -> None:
    """Wait until all have ended, or one has failed and its siblings had a moment to end too.

    Raises:
        HangTimeout: none of them gets on. Each that can has printed where it stands.
    """
    deadline = None
    # All are asked, also behind one that lives: a rank that failed may have left the ones before it stuck.
    while None in (codes := [worker.poll() for worker in workers]):
        raise_if_stop_requested()  # a request is lost where its exception was raised inside a destructor
        try:
            watch.poll()
        except HangTimeout:
            dump_stacks(worker.pid for worker, code in zip(workers, codes, strict=True) if code is None)
            raise
        if deadline is None and any(codes):
            deadline = time.monotonic() + SIBLINGS_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(POLL_SECONDS)


def stop(workers: list[subprocess.Popen[bytes]], care: WorkerTimeouts) -> None:
    """End them: by request, which gives them what is left of the grace period to save, and then by force."""
    running = [worker for worker in workers if worker.poll() is None]
    for worker in running:
        worker.terminate()
    since = seconds_since_stop_requested()
    deadline = time.monotonic() + (WORKERS_SHARE * care.grace_seconds - since if since else STOP_SECONDS)
    for worker in running:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
