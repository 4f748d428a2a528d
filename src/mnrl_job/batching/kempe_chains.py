"""Placing the last rows along alternating paths, where no batch has room for both groups of a row.

Take a batch that lacks the row's one group and a batch that lacks the other. From the other group a path of rows lies
alternately in the two; swapping them along it frees the first batch for the row (Kempe chains, as in König's proof).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mnrl_job.batching.max_batches import Keys
from mnrl_job.system.heartbeat import heartbeat

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

    def place(self, rows: Iterable[int]) -> None:
        """Place each row for which a path is found, then even out batches that have become too full."""
        for row in rows:
            heartbeat()
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
            first = self._emptiest(common, 0)
        elif lacks_one.any() and lacks_other.any():
            first, second = self._emptiest(lacks_one, skip), self._emptiest(lacks_other, skip)
            path = self._path(other, first, second)
            if one in self._keys[path[-1]]:  # only where a text is the anchor of one row and the positive of another
                return False
            self._swap(path, first, second)
        else:
            return False
        self._batch[row] = first
        self._fill[first] += 1
        return True

    def _relieve(self, batch: int) -> bool:
        """Move one row more out of a batch than into it, along a path to the emptiest batch."""
        target = int(np.argmin(self._fill))
        rows = np.flatnonzero(self._batch == batch)
        sizes = np.diff(self._starts)[self._keys[rows]].max(axis=1)
        for row in rows[np.argsort(sizes, kind="stable")].tolist():  # rows of small groups fit nearly anywhere
            for end in self._keys[row].tolist():
                if self._row_in(end, target) is not None:  # not an end of a path, but a place in it, or in a circle
                    continue
                path = self._path(end, batch, target)
                if len(path) % 2:
                    self._swap(path, batch, target)
                    return True
        return False

    def _path(self, group: int, first: int, second: int) -> list[int]:
        """The rows that lie alternately in two batches, beginning with the row of `group` in `first`.

        The group must have none in `second`: then the path has an end.
        """
        path: list[int] = []
        while (row := self._row_in(group, first)) is not None:
            path.append(row)
            one, other = self._keys[row].tolist()
            if one == other:
                break
            group = one + other - group
            first, second = second, first
        return path

    def _swap(self, path: list[int], first: int, second: int) -> None:
        self._batch[path[::2]] = second
        self._batch[path[1::2]] = first
        self._fill[first] -= len(path) % 2
        self._fill[second] += len(path) % 2

    def _row_in(self, group: int, batch: int) -> int | None:
        """The row of a group that stands in a batch."""
        rows = self._rows_of(group)
        found = rows[self._batch[rows] == batch]
        return int(found[0]) if len(found) else None

    def _rows_of(self, group: int) -> NDArray[np.int64]:
        return np.asarray(self._order[self._starts[group] : self._starts[group + 1]] // 2)

    def _lacking(self, group: int) -> NDArray[np.bool_]:
        """The batches without a row of a group."""
        batches = self._batch[self._rows_of(group)]
        lacking = np.ones(len(self._fill), dtype=bool)
        lacking[batches[batches != NOWHERE]] = False
        return lacking

    def _emptiest(self, among: NDArray[np.bool_], skip: int) -> int:
        """The batch with the fewest rows, or the next after `skip` of these."""
        batches = np.flatnonzero(among)
        if not skip:
            return int(batches[np.argmin(self._fill[batches])])
        return int(batches[np.argsort(self._fill[batches], kind="stable")[min(skip, len(batches) - 1)]])
