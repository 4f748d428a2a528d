"""A file whose pieces arrive in any order, read in order meanwhile: so its checksum is ready when its last piece is."""

import threading
from collections.abc import Callable

Wait = Callable[[int], None]


class PartTracker:
    """Which pieces of a file are there."""

    def __init__(self, size: int, piece: int) -> None:
        self._size = size
        self._piece = piece
        self._here: set[int] = set()
        self._broken = False
        self._changed = threading.Condition()

    def mark(self, start: int) -> None:
        """The piece that begins at byte `start` is there."""
        with self._changed:
            self._here.add(start)
            self._changed.notify_all()

    def give_up(self) -> None:
        """No more will come: whoever waits need not."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()

    def wait(self, stop: int) -> None:
        """Return when all bytes before `stop` are there.

        Raises:
            EOFError: they will not come.
        """
        needed = range(0, min(stop, self._size), self._piece)
        with self._changed:
            self._changed.wait_for(lambda: self._broken or self._here.issuperset(needed))
            if not self._here.issuperset(needed):
                raise EOFError("the file will not arrive")
