"""Threads for I/O-bound work and for work in the background."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from contextlib import suppress
from functools import partial
from typing import TypeVar
from weakref import WeakSet

from mnrl_job.system.cpus import usable_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")

# Because of the GIL more than a few threads per core mostly wait for each other. Measured on 2 cores, 2,000 small files
# from a local server: 4.5 s with 2 threads, 5.0 s with 4, 5.6 s with 6. Remote servers need more.
THREADS = min(16, max(4, 2 * usable_cpus()))
# Live threads of `parallel`.
_threads = WeakSet[threading.Thread]()


def _run(future: Future[Result], call: Callable[[], Result]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def parallel(function: Callable[[Item], Result], items: Sequence[Item], threads: int = THREADS) -> list[Result]:
    """Apply `function` to all items in parallel, until the first failure; the results are in the order of the items.

    The threads are daemons: neither a signal nor a failure waits for the timeout of a stalled connection.

    Raises:
        Exception: the first that `function` raised. Calls in progress are not waited for.
    """
    futures = [Future[Result]() for _ in items]
    pending = deque(zip(futures, items, strict=True))

    def work() -> None:
        with suppress(IndexError):  # no item is left
            while True:
                future, item = pending.popleft()
                _run(future, partial(function, item))

    for _ in range(min(threads, len(items))):
        thread = threading.Thread(target=work, daemon=True)
        _threads.add(thread)
        thread.start()
    try:
        for future in as_completed(futures):
            future.result()
    finally:
        pending.clear()
    return [future.result() for future in futures]


def join_threads(timeout: float) -> None:
    """Wait up to `timeout` seconds for calls that `parallel` did not wait for after a failure."""
    deadline = time.monotonic() + timeout
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))


def background(call: Callable[[], Result]) -> Callable[[], Result]:
    """Start a call in a background thread. Returns a function that waits for its result, or raises what it raised."""
    future = Future[Result]()
    threading.Thread(target=_run, args=(future, call), daemon=True).start()
    return future.result
