"""Track the parts of a download, so that the file can be hashed in order while parts arrive in any order."""

import threading
from collections.abc import Callable

Wait = Callable[[int], None]


class PartTracker:
    """Tracks which parts of a file have been downloaded."""

    def __init__(self, size: int, part_size: int) -> None:
        self._size = size
        self._part_size = part_size
        self._complete: set[int] = set()
        self._aborted = False
        self._changed = threading.Condition()

    def mark(self, start: int) -> None:
        """Record that the part that starts at byte `start` is complete."""
        with self._changed:
            self._complete.add(start)
            self._changed.notify_all()

    def abort(self) -> None:
        """Release the waiting threads: no more parts will follow."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def wait(self, stop: int) -> None:
        """Block until all bytes before `stop` are there.

        Raises:
            EOFError: the download was aborted.
        """
        needed = range(0, min(stop, self._size), self._part_size)
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or self._complete.issuperset(needed))
            if not self._complete.issuperset(needed):
                raise EOFError("the download was aborted")
