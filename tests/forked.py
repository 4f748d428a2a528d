"""The program in processes that need not import anything: forked from one of multiprocessing's that did so once.

Supervisor and workers are processes of their own with signals, exit codes and a life and death as ever. What a fork
cannot show is the way through `python entrypoint.py`, `python -m mnrl_job.worker` and `python -m mnrl_job.agent`; few
tests in fresh processes do.
"""

import importlib
import inspect
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mnrl_job.system.parent_death import die_with_parent
from tests.hosts import Host

# How many workers a command starts, one after another, where nothing is said of their number.
WORKERS = {"train": 2, "evaluate": 1, "check": 1, "verify": 1, "export": 1, "prepare": 1}
# Else: some, one that verifies, and one in place of any of them that was killed.
SPARES = 4
WORKER, AGENT = "mnrl_job.worker", "mnrl_job.agent"
LARGEST_MESSAGE = 1 << 20
# What decides how a library behaves from its import on; the rest of the environment each process is given.
AT_IMPORT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Forked:
    """A process of this kind, as `subprocess.Popen` shows one."""

    process: BaseProcess

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("the forked program", timeout or 0)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@dataclass(frozen=True)
class Start:
    """What a program is started with: its arguments, folder and whole environment, and the files it reads and writes.

    `module` has the `main` that is the program.
    """

    arguments: list[str]
    folder: Path
    environment: dict[str, str]
    stdout: Path
    stderr: Path
    stdin: Path = Path(os.devnull)
    host: Host | None = None
    module: str = "mnrl_job.start"


def start(given: Start) -> Forked:
    """Start the program."""
    process = forking().Process(target=become, args=(given,), daemon=True)
    process.start()
    return Forked(process)


@cache
def forking() -> Any:
    """The process that has imported everything, started once for each of pytest's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    before = dict(os.environ)
    os.environ.update(AT_IMPORT)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def become(given: Start) -> None:
    """In the new process: be the program."""
    assert "mnrl_job.worker.main" in sys.modules, "not preloaded"
    multiprocessing.set_start_method(None, force=True)  # as in a new process: this one's locks would outlive it
    multiprocessing.current_process().daemon = False  # or it could start no processes of data loaders
    if given.host:
        given.host.enter()
    if set(given.arguments) & WORKERS.keys():
        prepare_spares(spares_for(given))
    program = importlib.import_module(given.module)
    writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    streams = [os.open(given.stdin, os.O_RDONLY), os.open(given.stdout, writing), os.open(given.stderr, writing)]
    furnish(streams, given.folder, given.environment, ["entrypoint.py", *given.arguments])
    program.main()


def spares_for(given: Start) -> int:
    """How many to fork, each of which takes a tenth of a small run's time."""
    if given.environment.get("MNRL_NUM_PROCESSES", "1") != "1":
        return SPARES
    return max(WORKERS.get(argument, 0) for argument in given.arguments)


def furnish(streams: list[int], folder: Path, environment: dict[str, str], arguments: list[str]) -> None:
    """Give this process what a new one is given."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, 1, closefd=False) for number, mode in enumerate("rww"))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(":"))
    sys.argv = arguments


@dataclass(frozen=True)
class Spare:
    """A child that waits to be told which worker to be. Forked before there are threads, since those are not copied."""

    pid: int
    told: socket.socket


def fork_spare() -> Spare:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return Spare(pid, ours)
    ours.close()
    die_with_parent(parent)
    try:
        become_worker(theirs)
    finally:
        os._exit(1)


def become_worker(told: socket.socket) -> None:
    """Wait to be employed; then do as `python -m mnrl_job.worker` or `python -m mnrl_job.agent` does."""
    message, streams, *_ = socket.recv_fds(told, LARGEST_MESSAGE, 3)
    module, arguments, folder, environment = json.loads(message)
    os.setsid()
    furnish(streams, Path(folder), environment, [module, *arguments])
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if module == AGENT:
        prepare_spares(1)
    Path("/proc/self/comm").write_text(arguments[0] if module == WORKER else module)
    importlib.import_module(f"{module}.__main__").main()


def prepare_spares(count: int) -> None:
    """Have workers and agents that this process starts be spares of its own."""
    SPARE_PROCESSES[:] = [fork_spare() for _ in range(count)]
    subprocess.Popen._execute_child = execute_child  # type: ignore[attr-defined]


SPARE_PROCESSES: list[Spare] = []
EXECUTE = subprocess.Popen._execute_child  # type: ignore[attr-defined]
LAUNCH = inspect.signature(EXECUTE)


def execute_child(process: Any, *args: Any) -> None:
    """Turn a spare into a worker or agent where one is started, and start all else as ever."""
    given = LAUNCH.bind(process, *args).arguments
    python, *words = given["args"]
    if python != sys.executable or words[:1] != ["-m"] or words[1] not in (WORKER, AGENT) or not SPARE_PROCESSES:
        EXECUTE(process, *args)
        return
    spare = SPARE_PROCESSES.pop(0)
    streams = [given[name] if given[name] >= 0 else number for number, name in enumerate(CHILDS_ENDS)]
    message = json.dumps([words[1], words[2:], str(Path.cwd()), dict(given["env"])])
    socket.send_fds(spare.told, [message.encode()], streams)
    spare.told.close()
    process.pid, process._child_created = spare.pid, True
    process._close_pipe_fds(*(given[name] for name in PIPES))


CHILDS_ENDS = ("p2cread", "c2pwrite", "errwrite")
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
