"""A few threads, for work that mostly waits for the network, or that others need not wait for."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar, cast
from weakref import WeakSet

from mnrl_job.system.cpus import usable_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")

# Python runs one thread at a time: beyond a few per core they mostly wait for one another. Measured on 2 cores, 2,000
# small files from a local server: 4.5 s of 2 threads, 5.0 s of 4, 5.6 s of 6. Farther servers want more.
THREADS = min(16, max(4, 2 * usable_cpus()))
# Those of `parallel`, as long as they live.
_threads = WeakSet[threading.Thread]()


@dataclass(slots=True)
class _Outcome(Generic[Result]):
    """What became of one item; `call` fills it in."""

    call: Callable[[], Result]
    result: Result | None = None
    error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error


def parallel(function: Callable[[Item], Result], items: Sequence[Item], threads: int = THREADS) -> list[Result]:
    """Apply `function` to all items, several at once; the first failure ends it.

    The threads are daemons: a signal, or a failure beside a stalled connection, need not wait for its timeout.

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: the first that `function` raised. What had been begun elsewhere is not waited for.
    """
    outcomes = [_Outcome(partial(function, item)) for item in items]
    todo, done = deque(outcomes), queue.SimpleQueue[_Outcome[Result]]()

    def work() -> None:
        with suppress(IndexError):  # nothing is left to do
            while True:
                outcome = todo.popleft()
                outcome.run()
                done.put(outcome)

    for _ in range(min(threads, len(outcomes))):
        thread = threading.Thread(target=work, daemon=True)
        _threads.add(thread)
        thread.start()
    try:
        for _ in outcomes:
            if (error := done.get().error) is not None:
                raise error
    finally:
        todo.clear()
    return [cast("Result", outcome.result) for outcome in outcomes]


def settle(seconds: float) -> None:
    """Wait, but no longer than this, for what had been begun beside failures and was not waited for."""
    deadline = time.monotonic() + seconds
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))


def background(call: Callable[[], Result]) -> Callable[[], Result]:
    """Begin something in a thread of its own.

    Returns:
        What waits for the result, and raises what `call` raised.
    """
    outcome = _Outcome(call)
    thread = threading.Thread(target=outcome.run, daemon=True)
    thread.start()

    def result() -> Result:
        thread.join()
        if outcome.error is not None:
            raise outcome.error
        return cast("Result", outcome.result)

    return result
