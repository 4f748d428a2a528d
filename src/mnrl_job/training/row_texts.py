"""Which texts belong to the rows of a batch: anchors, positives, given negatives and mined ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.ragged import Ragged
from mnrl_job.training.hard_negatives.mining_rounds import HardNegatives
from mnrl_job.training.known_positives import KnownPositives

ANCHOR, POSITIVE, NEGATIVE = range(3)

# Columns, each with indices of texts in it; those of the negatives column count over all rows.
ColumnTexts = list[tuple[int, NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class RowTexts:
    """The texts of each row.

    Attributes:
        given: the groups of the negatives that come with each row.
        mined: those mined for it, which are positives of other rows; None without mining.
        positives: of the anchors that have several; None if none has.
    """

    given: Ragged
    mined: HardNegatives | None = None
    positives: KnownPositives | None = None

    def of_rows(self, rows: NDArray[np.int64]) -> ColumnTexts:
        """The texts of some rows: all anchors, all positives, then all negatives."""
        return [
            (ANCHOR, rows),
            (POSITIVE, rows),
            *((column, indices) for column, _, indices, _ in self._negatives(rows)),
        ]

    def negative_labels(self, label: NDArray[np.int64]) -> NDArray[np.int64]:
        """The labels of the negatives: number and anchor's group of their row, and their own group.

        Args:
            label: number and groups of anchor and positive of the rows, shape (rows, 3).

        Returns:
            Shape (negatives, 3).
        """
        labels = [np.empty((0, 3), dtype=np.int64)]
        for _, counts, _, groups in self._negatives(label[:, 0]):
            labels.append(np.column_stack([np.repeat(label[:, :2], counts, axis=0), groups]))
        return np.concatenate(labels)

    def _negatives(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """Given and mined ones: their column, the count of each row, their indices in the column, their groups."""
        if len(self.given.values):
            indices = self.given.positions(rows)
            yield NEGATIVE, self.given.offsets[rows + 1] - self.given.offsets[rows], indices, self.given.values[indices]
        if self.mined:
            yield POSITIVE, *self.mined.of_rows(rows)
