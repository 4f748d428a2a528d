"""Parallel calls: results in order; neither a failure nor a signal waits for a hanging thread."""

import signal
import threading
import time

import pytest

from mnrl_job.errors import StorageError
from mnrl_job.system.threads import join_threads, parallel

# Threads that hang do so until the test is over; a busy machine may be slow.
SOON = 30


class Stopped(Exception):
    pass


@pytest.fixture
def hang():
    """Something that hangs until the test is over."""
    over = threading.Event()
    yield over.wait
    over.set()


def test_results_are_in_the_order_of_the_items():
    def slow_first(number):
        time.sleep(0.05 if number < 2 else 0)
        return number * number

    assert parallel(slow_first, range(20), threads=4) == [number * number for number in range(20)]
    assert parallel(slow_first, []) == []
    assert parallel(lambda _: None, [1, 2]) == [None, None]


def test_items_are_processed_in_parallel_up_to_the_number_of_threads():
    meeting, inside, most = threading.Barrier(4, timeout=10), [], []

    def meet(number):
        inside.append(number)
        most.append(len(inside))
        meeting.wait()
        inside.remove(number)

    parallel(meet, range(16), threads=4)
    assert max(most) == 4


def test_the_first_failure_is_raised_while_other_threads_hang(hang):
    def work(number):
        if number == 1:
            raise StorageError("number 1 failed")
        hang()

    began = time.monotonic()
    with pytest.raises(StorageError, match="number 1 failed"):
        parallel(work, range(4), threads=4)
    assert time.monotonic() - began < SOON


def test_no_item_is_started_after_a_failure():
    begun = []

    def work(number):
        begun.append(number)
        if number == 0:
            raise StorageError("failed")
        time.sleep(0.1)

    with pytest.raises(StorageError):
        parallel(work, range(100), threads=2)
    time.sleep(0.3)
    assert len(begun) <= 4


def test_a_signal_is_not_delayed_by_threads_that_hang(hang):
    def stop(*_):
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    began = time.monotonic()
    try:
        with pytest.raises(Stopped):
            parallel(lambda _: hang(), range(8))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < SOON


def test_calls_in_progress_at_a_failure_can_be_joined_with_a_timeout(hang):
    done = []

    def work(number):
        if number == 0:
            raise StorageError("number 0 failed")
        if number == 1:
            time.sleep(0.2)
            done.append(number)
        elif number == 2:
            hang()

    with pytest.raises(StorageError):
        parallel(work, range(2), threads=2)
    assert done == []
    join_threads(10)
    assert done == [1]
    with pytest.raises(StorageError):
        parallel(work, [0, 2], threads=2)
    began = time.monotonic()
    join_threads(0.1)
    assert time.monotonic() - began < SOON
