"""Rows of different lengths in one array, with offsets as in an Arrow list array."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.integer_sets import Integers


@dataclass(frozen=True, slots=True)
class Ragged:
    """The values of row i are values[offsets[i] : offsets[i + 1]]; shapes (values,) and (rows + 1,)."""

    values: Integers
    offsets: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of values of each row, shape (rows,)."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each value, shape (values,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The indices into `values` of the given rows, row by row."""
        return positions(self.offsets, rows)

    def select(self, rows: NDArray[np.int64]) -> "Ragged":
        return Ragged(self.values[self.positions(rows)], offsets_of(self.offsets[rows + 1] - self.offsets[rows]))


def positions(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The indices of the values of the given rows, row by row."""
    return ranges(offsets[rows], offsets[rows + 1] - offsets[rows])


def ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The consecutive integers of ranges with these starts and lengths, one range after another."""
    numbers: NDArray[np.int64] = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    return numbers


def offsets_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets of rows with these numbers of values, shape (rows + 1,)."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def no_values(rows: int) -> Ragged:
    return Ragged(np.empty(0, dtype=np.int64), np.zeros(rows + 1, dtype=np.int64))
