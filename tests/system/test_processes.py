"""Tasks in processes: results in order, errors as they were raised, and no waiting for what is no longer wanted."""

import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from mnrl_job.errors import DataError, InternalError
from mnrl_job.system.processes import run_in_processes


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})


def wait_and_return(number):
    time.sleep(0.02 * (number % 3))
    return [number] * 100_000


def refuse(number):
    raise DataError(f"pairs.jsonl:{number}: empty", {"row": number})


def test_results_come_in_the_order_of_the_tasks_and_leave_no_file(tmp_path):
    results = list(run_in_processes([partial(wait_and_return, i) for i in range(12)], tmp_path, "counting"))
    assert [(result[0], len(result)) for result in results] == [(i, 100_000) for i in range(12)]
    assert not list(tmp_path.iterdir())


def test_an_error_is_that_of_the_first_task_that_failed(tmp_path):
    tasks = [partial(wait_and_return, 0), *(partial(refuse, i) for i in range(1, 9))]
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: empty") as caught:
        list(run_in_processes(tasks, tmp_path, "counting"))
    assert caught.value.details == {"row": 1}


def test_other_processes_are_left_alone(tmp_path):
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(100,))
    other.start()
    try:
        list(run_in_processes([partial(wait_and_return, i) for i in range(8)], tmp_path, "counting"))
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def test_a_request_to_stop_does_not_wait_for_running_tasks(tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    started, others = time.monotonic(), multiprocessing.active_children()
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(run_in_processes([partial(time.sleep, 100)] * 8, tmp_path, "sleeping"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 60
    assert set(multiprocessing.active_children()) <= set(others)


def test_a_killed_process_is_a_failure(tmp_path):
    others = multiprocessing.active_children()
    tasks = [partial(os._exit, 9)] * 8
    with pytest.raises(InternalError, match="a process sleeping was killed"):
        list(run_in_processes(tasks, tmp_path, "sleeping"))
    assert set(multiprocessing.active_children()) <= set(others)


def test_few_tasks_need_no_process():
    assert list(run_in_processes([os.getpid] * 7, Path("nowhere"), "counting")) == [os.getpid()] * 7
