"""The program in processes that need not import anything: forked from one of multiprocessing's that did so once.

Supervisor and workers are processes of their own with signals, exit codes and a life and death as ever. What a fork
cannot show is the way through `python entrypoint.py` and `python -m mnrl_job.worker`; few tests in fresh
processes do.
"""

import importlib
import inspect
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
from typing import Any, ClassVar

from mnrl_job.system.parent_death import die_with_parent
from tests.hosts import Host

# Of these commands; two workers, one that verifies, and one in place of any of them that was killed.
WITH_WORKERS = {"train", "evaluate", "check", "verify", "export"}
SPARES = 4
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
    if given.host:
        given.host.enter()
    if set(given.arguments) & WITH_WORKERS:
        Popen.spares = [fork_spare() for _ in range(SPARES)]
        subprocess.Popen = Popen  # type: ignore[misc]
    program = importlib.import_module(given.module)
    writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    streams = [os.open(given.stdin, os.O_RDONLY), os.open(given.stdout, writing), os.open(given.stderr, writing)]
    furnish(streams, given.folder, given.environment, ["entrypoint.py", *given.arguments])
    program.main()


def furnish(streams: list[int], folder: Path, environment: dict[str, str], arguments: list[str]) -> None:
    """Give this process what a new one is given."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, 1, closefd=False) for number, mode in enumerate("rww"))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
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
    """Wait to be employed; then do as `python -m mnrl_job.worker` does."""
    message, streams, *_ = socket.recv_fds(told, LARGEST_MESSAGE, 3)
    from mnrl_job.worker import __main__ as worker

    role, task, folder, *environment = message.decode().split("\0")
    os.setsid()
    furnish(streams, Path(folder), dict(one.split("=", 1) for one in environment), ["worker", role, task])
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    Path("/proc/self/comm").write_text(role)
    worker.main()


LAUNCH = inspect.signature(subprocess.Popen._execute_child)


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """Turns a spare into a worker where one is started, and starts all else as ever."""

    spares: ClassVar[list[Spare]] = []

    def _execute_child(self, *args: Any) -> None:
        given = LAUNCH.bind(self, *args).arguments
        python, *words = given["args"]
        if python != sys.executable or words[:2] != ["-m", "mnrl_job.worker"] or not self.spares:
            super()._execute_child(*args)
            return
        spare = self.spares.pop(0)
        environment = [f"{name}={value}" for name, value in given["env"].items()]
        streams = [given["p2cread"], given["c2pwrite"], 2]
        socket.send_fds(spare.told, ["\0".join([*words[2:], str(Path.cwd()), *environment]).encode()], streams)
        spare.told.close()
        self.pid, self._child_created = spare.pid, True
        self._close_pipe_fds(*(given[name] for name in PIPES))


PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
