"""Placement of the rows for which no batch lacks both groups, along alternating paths.

Take a batch that lacks the row's first group and a batch that lacks the second. From the second group a path of rows
alternates between the two batches; swapping the batches along it makes room for the row in the first (Kempe chains, as
in the proof of König's theorem).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mnrl_job.system.heartbeat import heartbeat

UNASSIGNED = -1
MAX_PATHS = 8


class KempeChains:
    """Changes an assignment of rows to batches in place, without making two rows of a group share a batch.

    Args:
        groups: anchor group and positive group of each row, shape (rows, 2).
        batch: the batch of each row, or `UNASSIGNED`.
        fill: number of rows in each batch.
        batch_size: rows of a full batch.
    """

    def __init__(
        self, groups: NDArray[np.int64], batch: NDArray[np.int64], fill: NDArray[np.int64], batch_size: int
    ) -> None:
        self._groups, self._batch, self._fill, self._batch_size = groups, batch, fill, batch_size
        self._order = np.argsort(groups.ravel(), kind="stable")
        self._starts = np.searchsorted(groups.ravel(), np.arange(groups.max() + 2), sorter=self._order)

    def place(self, rows: Iterable[int]) -> None:
        """Place each row for which a path is found, then move rows out of batches that became too large."""
        for row in rows:
            heartbeat()
            for skip in range(MAX_PATHS):
                if self._place(row, skip):
                    break
        for batch in np.flatnonzero(self._fill > self._batch_size).tolist():
            while self._fill[batch] > self._batch_size and self._shrink(batch):
                pass

    def _place(self, row: int, skip: int) -> bool:
        anchor, positive = self._groups[row].tolist()
        lacks_anchor, lacks_positive = self._lacking(anchor), self._lacking(positive)
        if (lacks_both := lacks_anchor & lacks_positive).any():
            target = self._emptiest(lacks_both, 0)
        elif lacks_anchor.any() and lacks_positive.any():
            target, other = self._emptiest(lacks_anchor, skip), self._emptiest(lacks_positive, skip)
            path = self._path(positive, target, other)
            if anchor in self._groups[path[-1]]:  # only where a text is both an anchor and a positive
                return False
            self._swap(path, target, other)
        else:
            return False
        self._batch[row] = target
        self._fill[target] += 1
        return True

    def _shrink(self, batch: int) -> bool:
        """Move one more row out of a batch than into it, along a path to the emptiest batch."""
        target = int(np.argmin(self._fill))
        rows = np.flatnonzero(self._batch == batch)
        sizes = np.diff(self._starts)[self._groups[rows]].max(axis=1)
        for row in rows[np.argsort(sizes, kind="stable")].tolist():  # rows of small groups fit nearly anywhere
            for group in self._groups[row].tolist():
                if self._row_in(group, target) is not None:  # not the end of a path, but inside one, or in a cycle
                    continue
                path = self._path(group, batch, target)
                if len(path) % 2:
                    self._swap(path, batch, target)
                    return True
        return False

    def _path(self, group: int, first: int, second: int) -> list[int]:
        """Rows alternating between two batches, beginning with the row of `group` in `first`.

        The group must have none in `second`: then the path has an end.
        """
        path: list[int] = []
        while (row := self._row_in(group, first)) is not None:
            path.append(row)
            anchor, positive = self._groups[row].tolist()
            if anchor == positive:
                break
            group = anchor + positive - group
            first, second = second, first
        return path

    def _swap(self, path: list[int], first: int, second: int) -> None:
        self._batch[path[::2]] = second
        self._batch[path[1::2]] = first
        self._fill[first] -= len(path) % 2
        self._fill[second] += len(path) % 2

    def _row_in(self, group: int, batch: int) -> int | None:
        rows = self._rows_of(group)
        matches = rows[self._batch[rows] == batch]
        return int(matches[0]) if len(matches) else None

    def _rows_of(self, group: int) -> NDArray[np.int64]:
        return np.asarray(self._order[self._starts[group] : self._starts[group + 1]] // 2)

    def _lacking(self, group: int) -> NDArray[np.bool_]:
        """Mark the batches without a row of a group."""
        batches = self._batch[self._rows_of(group)]
        lacking = np.ones(len(self._fill), dtype=bool)
        lacking[batches[batches != UNASSIGNED]] = False
        return lacking

    def _emptiest(self, candidates: NDArray[np.bool_], skip: int) -> int:
        """The candidate batch with the fewest rows, or the one after `skip` of these."""
        batches = np.flatnonzero(candidates)
        if not skip:
            return int(batches[np.argmin(self._fill[batches])])
        return int(batches[np.argsort(self._fill[batches], kind="stable")[min(skip, len(batches) - 1)]])
