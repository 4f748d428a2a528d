"""Which texts the rows of a batch bring along: anchors, positives, the negatives they were given and those mined."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.ragged import Ragged
from mnrl_job.training.hard_negatives.mining_rounds import HardNegatives

ANCHOR, POSITIVE, NEGATIVE = range(3)

# A column, and the numbers of some of its texts there; those of negatives count over all rows.
Asked = list[tuple[int, NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class RowTexts:
    """What each row has.

    Attributes:
        given: the groups of the negatives that each row was given.
        mined: those mined for it, which are positives of other rows; None where none are wanted.
    """

    given: Ragged
    mined: HardNegatives | None = None

    def asked(self, rows: NDArray[np.int64]) -> Asked:
        """The texts of some rows: all anchors, all positives, then all negatives that there are."""
        return [
            (ANCHOR, rows),
            (POSITIVE, rows),
            *((column, numbers) for column, _, numbers, _ in self._negatives(rows)),
        ]

    def labels(self, label: NDArray[np.int64]) -> NDArray[np.int64]:
        """The labels of these negatives: number and anchor's group of their row, and their own group.

        Args:
            label: of the rows, their number and groups of anchor and positive, shape (rows, 3).

        Returns:
            Shape (negatives, 3).
        """
        found = [np.empty((0, 3), dtype=np.int64)]
        for _, counts, _, groups in self._negatives(label[:, 0]):
            found.append(np.column_stack([np.repeat(label[:, :2], counts, axis=0), groups]))
        return np.concatenate(found)

    def totals(self, rows: NDArray[np.int64], lengths: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        """The lengths of all texts of some rows added up for each, shape (rows,).

        Args:
            rows: their numbers.
            lengths: of all texts of each column.
        """
        total = lengths[ANCHOR][rows] + lengths[POSITIVE][rows]
        for column, counts, numbers, _ in self._negatives(rows):
            of = np.repeat(np.arange(len(rows)), counts)
            total += np.bincount(of, lengths[column][numbers], len(rows)).astype(np.int64)
        return total

    def _negatives(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """Given and mined ones: the column of the texts, how many each row has, the texts' numbers and groups."""
        if len(self.given.values):
            numbers = self.given.positions(rows)
            yield NEGATIVE, self.given.offsets[rows + 1] - self.given.offsets[rows], numbers, self.given.values[numbers]
        if self.mined:
            yield POSITIVE, *self.mined.of(rows)
