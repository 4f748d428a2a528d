"""The supervisor's side of the workers: start one per device, watch, stop, and learn the true cause of a failure.

A launcher's exit code cannot be trusted with a cause (`accelerate launch` and torchrun turn every code into 1), and a
launcher imports torch a second time (1.5 s here). So the supervisor starts the workers itself with the environment
that `accelerate` and torch.distributed read, and each worker that fails writes an outcome file that tells why.
"""

import ctypes
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
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mnrl_job.errors import Hang, InternalError, JobError, by_kind
from mnrl_job.records import Record, WorkerTask, read_record, write_record
from mnrl_job.runtime.devices import Devices
from mnrl_job.runtime.meeting import Meeting
from mnrl_job.runtime.nodes import ALONE, Nodes, interface_to
from mnrl_job.runtime.secrets import redact

OUTCOME = "MNRL_JOB_OUTCOME"
SUPERVISOR = "MNRL_JOB_SUPERVISOR"
WAIT = "MNRL_JOB_WAIT"
TASK = "task.json"
POLL_SECONDS = 0.05
STOP_SECONDS = 20.0
MALLOC = {"hugetlb": 1, "mmap_threshold": 2**32, "trim_threshold": 2**34}
SIBLINGS_SECONDS = 2.0
# What launchers and schedulers say to workers; ours are told by us.
FOR_WORKERS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why a worker failed, written by that worker. `at` orders cause before consequence."""

    kind: str
    message: str
    trace: str
    at: float


def ask_workers(role: str, task: WorkerTask, devices: Devices, answer: str, kind: type[Record]) -> Record:
    """Start workers and let them do a task, see `Waiting.ask`."""
    with started(role, task.scratch, devices) as workers:
        return workers.tell(task, answer, kind)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Workers that import what they need, which takes seconds, and wait for their task."""

    role: str
    devices: Devices
    processes: list[subprocess.Popen[bytes]]
    outcomes: Path
    others: Meeting | None = None

    def ask(self, task: WorkerTask, answer: str, kind: type[Record]) -> Record:
        """Write the task down, let the workers do it, and read what the first leaves in the scratch file `answer`.

        Raises:
            JobError: the first failure, as the failing worker itself described it.
        """
        if any(process.poll() is not None for process in self.processes):
            # One that was killed while it only waited must not cost a finished training.
            with started(self.role, task.scratch, self.devices, self.others) as anew:
                return anew.tell(task, answer, kind)
        return self.tell(task, answer, kind)

    def tell(self, task: WorkerTask, answer: str, kind: type[Record]) -> Record:
        """As `ask`, of these very processes."""
        write_record(task.scratch / TASK, task)
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
        _wait(self.processes, self.others)
        if any(process.returncode for process in self.processes):
            raise _cause(self.outcomes, self.processes)
        return read_record(task.scratch / answer, kind)


@contextmanager
def started(role: str, scratch: Path, devices: Devices, others: Meeting | None = None) -> Iterator[Waiting]:
    """Run `python -m mnrl_job.start_worker ROLE TASK` in `devices.workers` processes; none outlives the context.

    Args:
        role: what the workers do (`train`, `evaluate`, `verify`).
        scratch: where their task will stand, and where failing workers leave their outcome files.
        devices: how many workers, and whether they have GPUs; they find one another through torch.distributed's
            environment variables.
        others: the other nodes whose workers take part; while ours work, we also hear what happens there.
    """
    outcomes = scratch / "outcomes" / role
    shutil.rmtree(outcomes, ignore_errors=True)
    outcomes.mkdir(parents=True)
    nodes = others.nodes if others else ALONE
    shared = {SUPERVISOR: str(os.getpid()), WAIT: "1"} | _meeting_place(devices, nodes)
    command = [sys.executable, "-m", "mnrl_job.start_worker", role, str(scratch / TASK)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(devices.workers):
            own = {OUTCOME: str(outcomes / f"rank-{rank}.json")}
            if devices.workers * nodes.count > 1:
                own |= {"RANK": str(nodes.rank * devices.workers + rank), "LOCAL_RANK": str(rank)}
            environment = worker_environment(devices) | shared | own
            processes.append(subprocess.Popen(command, env=environment, start_new_session=True, stdin=subprocess.PIPE))
        yield Waiting(role, devices, processes, outcomes, others)
    except Hang:
        for process in processes:
            process.kill()  # it waits for one that is gone, and would not hear a request
        raise
    finally:
        _stop(processes)


def worker_environment(devices: Devices) -> dict[str, str]:
    """What all workers of a machine have in common: ours without settings, how many threads, how memory is managed."""
    foreign = ("MNRL_", "TORCHELASTIC_")
    inherited = {name: os.environ[name] for name in os.environ.keys() - FOR_WORKERS if not name.startswith(foreign)}
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


def _meeting_place(devices: Devices, nodes: Nodes) -> dict[str, str]:
    """Where workers find one another, as torch.distributed reads it; nothing for one that is alone."""
    if devices.workers * nodes.count == 1:
        return {}
    place = {"WORLD_SIZE": str(devices.workers * nodes.count)}
    if nodes.count == 1:
        return place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    place |= {"MASTER_ADDR": nodes.master, "MASTER_PORT": str(nodes.port)}
    interface = os.environ.get("GLOO_SOCKET_IFNAME") or interface_to(nodes.master)
    return place | {"GLOO_SOCKET_IFNAME": interface} if interface else place


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(workers: list[subprocess.Popen[bytes]], others: Meeting | None) -> None:
    """Wait until all have ended, or one has failed and its siblings had a moment to end too, or another node fails."""
    deadline = None
    while any(worker.poll() is None for worker in workers):
        if deadline is None and any(worker.returncode for worker in workers):
            deadline = time.monotonic() + SIBLINGS_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            return
        if deadline is None and others:
            others.check()
        time.sleep(POLL_SECONDS)


def _cause(folder: Path, workers: list[subprocess.Popen[bytes]]) -> JobError:
    """The first failure that explains itself; else the worker that was killed; else the first fault of ours.

    When one worker is gone, its siblings fail too: their collectives break, or their runtime aborts them.
    """
    outcomes = sorted((read_record(path, Outcome) for path in folder.glob("rank-*.json")), key=lambda one: one.at)
    killed = [(rank, -worker.returncode) for rank, worker in enumerate(workers) if (worker.returncode or 0) < 0]
    explained = [one for one in outcomes if one.kind != InternalError.kind]
    if killed and not explained:
        name = signal.Signals(killed[0][1]).name
        hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
        return InternalError(f"worker {killed[0][0]} was killed by {name}{hint}")
    if not outcomes:
        codes = [worker.returncode for worker in workers]
        return InternalError(f"a worker ended without a word (exit codes {codes}); its output above may say more")
    first = (explained or outcomes)[0]
    return by_kind(first.kind, first.message, first.trace)


def _stop(workers: list[subprocess.Popen[bytes]]) -> None:
    running = [worker for worker in workers if worker.poll() is None]
    for worker in running:
        worker.terminate()
    deadline = time.monotonic() + STOP_SECONDS
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
    die_with_parent(int(os.environ.get(SUPERVISOR, os.getppid())))
    if os.environ.get(WAIT):
        sys.stdin.read()  # until the supervisor closes it, or is gone
    code = 0
    try:
        body()
    except Exception as error:
        known = error if isinstance(error, JobError) else explain(error)
        failure = known or InternalError(f"{type(error).__name__}: {error}")
        _write_outcome(os.environ, failure, "" if known else traceback.format_exc())
        code = failure.code
    # Not by tearing down, which takes a second; and with a sibling gone, the process group's runtime may abort it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _write_outcome(environ: Mapping[str, str], failure: JobError, trace: str) -> None:
    path = Path(environ[OUTCOME])
    write_record(path, Outcome(failure.kind, redact(str(failure)), redact(trace), time.time()))


def die_with_parent(parent: int) -> None:
    """A parent that is killed takes this process along (Linux: PR_SET_PDEATHSIG), also one that is gone already."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(InternalError.code)
