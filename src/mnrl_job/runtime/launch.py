"""The supervisor's side of the workers: start one per device, watch, stop, and learn the true cause of a failure.

A launcher's exit code cannot be trusted with a cause (`accelerate launch` and torchrun turn every code into 1), and a
launcher imports torch a second time (1.5 s here). So the supervisor starts the workers itself with the environment
that `accelerate` and torch.distributed read, and each worker that fails writes an outcome file that tells why.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mnrl_job.errors import Hang, InternalError, JobError, MemoryLimit, by_kind
from mnrl_job.records import Record, WorkerTask, read_record, write_record
from mnrl_job.runtime import heartbeat
from mnrl_job.runtime.devices import Devices
from mnrl_job.runtime.lifeline import SUPERVISOR
from mnrl_job.runtime.logs import warn
from mnrl_job.runtime.machine import oom_kills
from mnrl_job.runtime.secrets import redact
from mnrl_job.runtime.stopping import seconds_since_asked, uninterrupted
from mnrl_job.runtime.watch import Care, Watch

OUTCOME = "MNRL_JOB_OUTCOME"
WAIT = "MNRL_JOB_WAIT"
TASK = "task.json"
POLL_SECONDS = 0.05
STOP_SECONDS = 20.0
# Of the grace period; the rest is for uploading and leaving.
WORKERS_SHARE = 0.85
MALLOC = {"hugetlb": 1, "mmap_threshold": 2**32, "trim_threshold": 2**34}
SIBLINGS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why a worker failed, written by that worker. `at`, of a clock nobody can set, orders cause before consequence."""

    kind: str
    message: str
    trace: str
    at: float
    details: dict[str, Any] = field(default_factory=dict)


def ask_workers(role: str, task: WorkerTask, devices: Devices, care: Care, answer: str, kind: type[Record]) -> Record:
    """Start workers and let them do a task, see `Waiting.ask`."""
    with started(role, task.scratch, devices, care) as workers:
        return workers.tell(task, answer, kind)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Workers that import what they need, which takes seconds, and wait for their task."""

    role: str
    devices: Devices
    care: Care
    processes: list[subprocess.Popen[bytes]]
    outcomes: Path
    oom_kills: int

    def ask(self, task: WorkerTask, answer: str, kind: type[Record]) -> Record:
        """Write the task down, let the workers do it, and read what the first leaves in the scratch file `answer`.

        Raises:
            JobError: the first failure, as the failing worker itself described it.
        """
        if any(process.poll() is not None for process in self.processes):
            # One that was killed while it only waited must not cost a finished training.
            return ask_workers(self.role, task, self.devices, self.care, answer, kind)
        return self.tell(task, answer, kind)

    def tell(self, task: WorkerTask, answer: str, kind: type[Record]) -> Record:
        """As `ask`, of these very processes."""
        write_record(task.scratch / TASK, task)
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
        beats = [self.outcomes / f"beat-{rank}.json" for rank in range(len(self.processes))]
        try:
            _wait(self.processes, Watch(beats, self.care))
        except Hang:
            for process in self.processes:
                process.kill()  # what hangs does not end by itself
            raise
        if any(process.returncode for process in self.processes):
            raise _cause(self.outcomes, self.processes, oom_kills() - self.oom_kills)
        return read_record(task.scratch / answer, kind)


@contextmanager
def started(role: str, scratch: Path, devices: Devices, care: Care) -> Iterator[Waiting]:
    """Run `python -m mnrl_job.start_worker ROLE TASK` in `devices.workers` processes; none outlives the context.

    Args:
        role: what the workers do (`train`, `evaluate`, `verify`).
        scratch: where their task will stand, and where failing workers leave their outcome files.
        devices: how many workers, and whether they have GPUs; they find one another through torch.distributed's
            environment variables.
        care: how they are looked after.
    """
    outcomes = scratch / "outcomes" / role
    shutil.rmtree(outcomes, ignore_errors=True)
    outcomes.mkdir(parents=True)
    shared = {SUPERVISOR: str(os.getpid()), WAIT: "1"}
    if devices.workers > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(devices.workers)}
    command = [sys.executable, "-m", "mnrl_job.start_worker", role, str(scratch / TASK)]
    processes: list[subprocess.Popen[bytes]] = []
    killed_before = oom_kills()
    try:
        for rank in range(devices.workers):
            own = {OUTCOME: str(outcomes / f"rank-{rank}.json"), heartbeat.FILE: str(outcomes / f"beat-{rank}.json")}
            if devices.workers > 1:
                own |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            environment = worker_environment(devices) | shared | own
            with uninterrupted():  # or nobody would end a worker that has just begun
                worker = subprocess.Popen(command, env=environment, start_new_session=True, stdin=subprocess.PIPE)
                processes.append(worker)
        yield Waiting(role, devices, care, processes, outcomes, killed_before)
    finally:
        _stop(processes, care)


def worker_environment(devices: Devices) -> dict[str, str]:
    """What all workers of a machine have in common: ours without settings, how many threads, how memory is managed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MNRL_")}
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = max(1, cores // devices.workers)
    defaults = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    # Of compiled matrix products: the usual 1,024 are fewer than the shapes of a run, and the oldest is dropped first.
    defaults["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "8192"
    # Activations in huge pages that are not given back after each step; a C library that lacks these ignores them.
    defaults["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{name}={value}" for name, value in MALLOC.items())
    return defaults | inherited | _device_environment(devices, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _device_environment(devices: Devices, visible: str | None) -> dict[str, str]:
    """As many GPUs as workers, since the trainer would spread one worker over all it sees (DataParallel)."""
    if not devices.gpus:
        return {"ACCELERATE_USE_CPU": "true"}
    names = visible.split(",") if visible else [str(index) for index in range(devices.gpus)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[: devices.workers])}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(workers: list[subprocess.Popen[bytes]], watch: Watch) -> None:
    """Wait until all have ended, or one has failed and its siblings had a moment to end too.

    Raises:
        Hang: none of them gets on.
    """
    deadline = None
    while any(worker.poll() is None for worker in workers):
        watch.look(workers)
        if deadline is None and any(worker.returncode for worker in workers):
            deadline = time.monotonic() + SIBLINGS_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(POLL_SECONDS)


def _cause(folder: Path, workers: list[subprocess.Popen[bytes]], out_of_memory: int = 0) -> JobError:
    """The first failure that explains itself; else the worker that was killed; else the first fault of ours.

    When one worker is gone, its siblings fail too: their collectives break, or their runtime aborts them.
    """
    outcomes = sorted((read_record(path, Outcome) for path in folder.glob("rank-*.json")), key=lambda one: one.at)
    killed = [(rank, -worker.returncode) for rank, worker in enumerate(workers) if (worker.returncode or 0) < 0]
    explained = [one for one in outcomes if one.kind != InternalError.kind]
    if killed and not explained:
        rank, name = killed[0][0], signal.Signals(killed[0][1]).name
        if name == "SIGKILL" and out_of_memory:
            return MemoryLimit(
                f"worker {rank} was killed since the container's memory is used up; give it more, or lower "
                "MNRL_BATCH_SIZE, MNRL_MAX_SEQ_LENGTH or MNRL_NUM_PROCESSES"
            )
        hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
        return InternalError(f"worker {rank} was killed by {name}{hint}")
    if not outcomes:
        codes = [worker.returncode for worker in workers]
        for cls in JobError.__subclasses__():
            if cls.code in codes and cls is not InternalError:
                return cls(
                    "a worker had no room to write down why it ended (its output above tells): the disk is full; "
                    "free space, or name a larger MNRL_WORK_DIR"
                )
        return InternalError(f"a worker ended without a word (exit codes {codes}); its output above may say more")
    first = (explained or outcomes)[0]
    return by_kind(first.kind, first.message, first.trace, first.details)


def _stop(workers: list[subprocess.Popen[bytes]], care: Care) -> None:
    """End them: by request, which gives them what is left of the grace period to save, and then by force."""
    running = [worker for worker in workers if worker.poll() is None]
    for worker in running:
        worker.terminate()
    since = seconds_since_asked()
    deadline = time.monotonic() + (WORKERS_SHARE * care.grace_seconds - since if since else STOP_SECONDS)
    for worker in running:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def worker_main(body: Callable[[], None], explain: Callable[[Exception], JobError | None]) -> NoReturn:
    """Run a worker's body and end the process with the exit code; on failure leave an outcome file.

    Args:
        body: the work.
        explain: turns a library's exception into one of ours, or None for a fault of the program.
    """
    if os.environ.get(WAIT):
        sys.stdin.read()  # until the supervisor closes it, or is gone
    code = 0
    try:
        body()
    except Exception as error:
        known = error if isinstance(error, JobError) else explain(error)
        failure = known or InternalError(f"{type(error).__name__}: {error}")
        try:
            _write_outcome(os.environ, failure, "" if known else traceback.format_exc())
        except OSError:  # no room even for this
            warn(str(failure))
        code = failure.code
    # Not by tearing down, which takes a second; and with a sibling gone, the process group's runtime may abort it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _write_outcome(environ: Mapping[str, str], failure: JobError, trace: str) -> None:
    path = Path(environ[OUTCOME])
    write_record(path, Outcome(failure.kind, redact(str(failure)), redact(trace), time.monotonic(), failure.details))
