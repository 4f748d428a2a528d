"""Rows that differ in how many numbers they have, kept as Arrow keeps lists: all values, and where each row begins."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ragged:
    """The numbers of row i are values[offsets[i] : offsets[i + 1]]; shapes (values,) and (rows + 1,)."""

    values: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many values each row has, shape (rows,)."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each value, shape (values,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the values of some rows stand, row by row."""
        return positions(self.offsets, rows)

    def of(self, rows: NDArray[np.int64]) -> "Ragged":
        """Some rows alone."""
        return Ragged(self.values[self.positions(rows)], offsets_of(self.offsets[rows + 1] - self.offsets[rows]))


def positions(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the values of some rows stand, row by row."""
    starts = offsets[rows]
    counts = offsets[rows + 1] - starts
    places: NDArray[np.int64] = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    return places


def offsets_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the values of each row begin, and where the last ones end, shape (rows + 1,)."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def no_values(rows: int) -> Ragged:
    """Rows without any value."""
    return Ragged(np.empty(0, dtype=np.int64), np.zeros(rows + 1, dtype=np.int64))
