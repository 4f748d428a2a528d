"""Placing the last rows along alternating paths, where no batch has room for both groups of a row.

Take a batch that lacks the row's one group and a batch that lacks the other. From the other group a path of rows lies
alternately in the two; swapping them along it frees the first batch for the row (Kempe chains, as in König's proof).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mnrl_job.training.capacity import Keys

NOWHERE = -1
TRIES = 8


class Chains:
    """Batches as they stand; placing changes `batch` and `fill` in place.

    Args:
        keys: the groups of each row, shape (rows, 2).
        batch: the batch of each row, or `NOWHERE`.
        fill: how many rows each batch has.
        batch_size: how many it should have at most.
    """

    def __init__(self, keys: Keys, batch: NDArray[np.int64], fill: NDArray[np.int64], batch_size: int) -> None:
        self._keys, self._batch, self._fill, self._size = keys, batch, fill, batch_size
        self._order = np.argsort(keys.ravel(), kind="stable")
        self._starts = np.searchsorted(keys.ravel(), np.arange(keys.max() + 2), sorter=self._order)
        self._seats: dict[int, dict[int, int]] = {}

    def place(self, rows: Iterable[int]) -> None:
        """Place each row for which a path is found, then even out batches that have become too full."""
        for row in rows:
            for skip in range(TRIES):
                if self._place(row, skip):
                    break
        for batch in np.flatnonzero(self._fill > self._size).tolist():
            while self._fill[batch] > self._size and self._relieve(batch):
                pass

    def _place(self, row: int, skip: int) -> bool:
        one, other = self._keys[row].tolist()
        lacks_one, lacks_other = self._lacking(one), self._lacking(other)
        if (common := lacks_one & lacks_other).any():
            self._move([row], self._emptiest(common, 0))
            return True
        if not (lacks_one.any() and lacks_other.any()):
            return False
        first, second = self._emptiest(lacks_one, skip), self._emptiest(lacks_other, skip)
        path = self._path(other, first, second)
        if one in self._keys[path[-1]]:  # only where a text is the anchor of one row and the positive of another
            return False
        self._swap(path, first, second)
        self._move([row], first)
        return True

    def _relieve(self, batch: int) -> bool:
        """Move one row more out of a batch than into it, along a path to the emptiest batch."""
        target = int(np.argmin(self._fill))
        for row in np.flatnonzero(self._batch == batch).tolist():
            for end in self._keys[row].tolist():
                path = self._path(end, batch, target)
                if target not in self._seats_of(end) and len(path) % 2:
                    self._swap(path, batch, target)
                    return True
        return False

    def _path(self, group: int, first: int, second: int) -> list[int]:
        """The rows that lie alternately in two batches, beginning with the row of `group` in `first`."""
        path: list[int] = []
        while (row := self._seats_of(group).get(first)) is not None:
            path.append(row)
            one, other = self._keys[row].tolist()
            if one == other:
                break
            group = one + other - group
            first, second = second, first
        return path

    def _swap(self, path: list[int], first: int, second: int) -> None:
        self._move(path[::2], NOWHERE)
        self._move(path[1::2], first)
        self._move(path[::2], second)

    def _move(self, rows: list[int], to: int) -> None:
        for row in rows:
            came_from = int(self._batch[row])
            self._batch[row] = to
            for group in set(self._keys[row].tolist()):
                seats = self._seats_of(group)
                if seats.get(came_from) == row:
                    del seats[came_from]
                if to != NOWHERE:
                    seats[to] = row
            if came_from != NOWHERE:
                self._fill[came_from] -= 1
            if to != NOWHERE:
                self._fill[to] += 1

    def _seats_of(self, group: int) -> dict[int, int]:
        """Which row of a group stands in which batch; looked up when first asked for."""
        if group not in self._seats:
            rows = self._order[self._starts[group] : self._starts[group + 1]] // 2
            placed = rows[self._batch[rows] != NOWHERE]
            self._seats[group] = dict(zip(self._batch[placed].tolist(), placed.tolist(), strict=True))
        return self._seats[group]

    def _lacking(self, group: int) -> NDArray[np.bool_]:
        lacking = np.ones(len(self._fill), dtype=bool)
        lacking[list(self._seats_of(group))] = False
        return lacking

    def _emptiest(self, among: NDArray[np.bool_], skip: int) -> int:
        """The batch with the fewest rows, or the next after `skip` of these."""
        batches = np.flatnonzero(among)
        return int(batches[np.argsort(self._fill[batches], kind="stable")[min(skip, len(batches) - 1)]])
