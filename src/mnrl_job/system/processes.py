"""Run many tasks in processes, one per usable CPU."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from mnrl_job.errors import InternalError
from mnrl_job.system.cpus import usable_cpus
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.parent_death import die_with_parent

# Starting a process costs about as much as a few tasks.
TASKS_PER_PROCESS = 4
SECONDS_BETWEEN_HEARTBEATS = 1.0

Result = TypeVar("Result")


def run_in_processes(tasks: Sequence[Callable[[], Result]], folder: Path, purpose: str) -> Generator[Result]:
    """The results of the tasks in their order. A few tasks are run here.

    Close it (`contextlib.closing`) where it may not be exhausted: that ends the processes.

    Results wait in files in `folder`. `purpose` is for the error message.

    Raises:
        InternalError: a process was killed.
    """
    processes = min(usable_cpus(), len(tasks) // TASKS_PER_PROCESS)
    if processes < 2:
        yield from (task() for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(processes, context, initializer=_start_process, initargs=(os.getpid(),)) as pool:
        try:
            paths = [folder / f"result-{number}" for number in range(len(tasks))]
            futures = [pool.submit(_write_result, task, path) for task, path in zip(tasks, paths, strict=True)]
            for future, path in zip(futures, paths, strict=True):
                _await(future)
                yield _read_result(path)
        except BrokenProcessPool as error:
            raise InternalError(f"a process {purpose} was killed; the machine may be out of memory") from error
        finally:
            # Else a request to stop would wait for tasks that take minutes, such as reading a compressed file.
            for process in multiprocessing.active_children():
                if process not in others:
                    process.kill()


def _start_process(parent: int) -> None:
    """Exit with the parent, which alone handles signals."""
    die_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _write_result(task: Callable[[], Any], path: Path) -> None:
    """Write to a file, not to the pipe: a process killed halfway would block the parent forever."""
    with path.open("wb") as file:
        pickle.dump(task(), file, pickle.HIGHEST_PROTOCOL)


def _await(future: Future[None]) -> None:
    while not wait([future], SECONDS_BETWEEN_HEARTBEATS).done:
        heartbeat()
    future.result()


def _read_result(path: Path) -> Any:
    with path.open("rb") as file:
        result = pickle.load(file)  # noqa: S301, written by our own process
    path.unlink()
    return result
