"""Dealing rows to batches so that no two rows of a batch share a group.

Groups are the vertices of a graph, a row is an edge between its anchor's and its positive's group, a batch is a colour:
this is edge colouring with colours of equal size. Most rows are dealt in waves, many at a time, the rows of the largest
groups first while there is room everywhere. The few rows that then fit nowhere are placed one by one along alternating
paths (Kempe chains), as in the proof of König's theorem. Rows whose groups nobody shares fit anywhere; they come last.
"""

import numpy as np
from numpy.typing import NDArray

from mnrl_job.batching.kempe_chains import NOWHERE, Chains
from mnrl_job.batching.max_batches import Keys, Rows

ROUNDS_PER_WAVE = 12
# A wave takes the groups of sizes 4^k to 4^(k+1).
WAVE_BITS = 2


def assign_batches(keys: Keys, batches: int, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Deal rows to `batches` batches of at most `batch_size`.

    Args:
        keys: the groups of each row, shape (rows, 2); no group stands in one column more than `batches` times.
        batches: how many.
        batch_size: rows of a batch; there are at most `batches * batch_size` rows.
        rng: decides whatever is left open.

    Returns:
        The batch of each row, shape (rows,); `NOWHERE` for a row that could not be placed.
    """
    table = _Table(keys, batches, batch_size, rng)
    unplaced = np.concatenate(
        [np.empty(0, dtype=np.int64), *(table.wave(rows) for rows in _waves(keys, table.sizes, rng))]
    )
    if len(unplaced):
        Chains(keys, table.batch, table.fill, batch_size).place(unplaced.tolist())
    table.fill_up(rng.permutation(np.flatnonzero(table.sizes[keys].max(axis=1) == 1)))
    return table.batch


def _waves(keys: Keys, sizes: NDArray[np.int64], rng: np.random.Generator) -> list[Rows]:
    """Rows that share a group with others, the largest groups first; rows of one group stand together."""
    largest = sizes[keys].max(axis=1)
    rows = rng.permutation(np.flatnonzero(largest > 1))
    leading = np.where(sizes[keys[rows, 0]] > sizes[keys[rows, 1]], keys[rows, 0], keys[rows, 1])
    # Groups of one size come in random order, too.
    turn = np.empty(len(sizes), dtype=np.int64)
    turn[np.lexsort((rng.permutation(len(sizes)), -sizes))] = np.arange(len(sizes))
    rows = rows[np.argsort(turn[leading], kind="stable")]
    wave = np.log2(largest[rows]).astype(np.int64) // WAVE_BITS
    return np.split(rows, np.flatnonzero(np.diff(wave)) + 1) if len(rows) else []


class _Table:
    """Batches being filled. `sizes` counts the rows of each group."""

    def __init__(self, keys: Keys, batches: int, batch_size: int, rng: np.random.Generator) -> None:
        self.batch = np.full(len(keys), NOWHERE, dtype=np.int64)
        self.fill = np.zeros(batches, dtype=np.int64)
        self.sizes = np.bincount(keys.ravel(), minlength=1)
        own = keys[:, 0] == keys[:, 1]
        self.sizes -= np.bincount(keys[own, 0], minlength=len(self.sizes))
        self._keys = keys
        self._batch_size = batch_size
        self._rng = rng
        self._seen = _Seen()

    def wave(self, rows: Rows) -> Rows:
        """Deal these rows; those that meet their group are dealt again. Returns the rows that found no place."""
        for _ in range(ROUNDS_PER_WAVE):
            to = self._seats(len(rows))
            fits = self._fits(rows[: len(to)], to)
            self._seat(rows[: len(to)][fits], to[fits])
            rows = np.concatenate([rows[: len(to)][~fits], rows[len(to) :]])
            if not fits.any():
                break
        return rows

    def fill_up(self, rows: Rows) -> None:
        """Seat rows whose groups nobody shares, in the fullest batches first, so that as many as possible are full."""
        order = np.argsort(-self.fill, kind="stable")
        to = np.repeat(order, np.maximum(self._batch_size - self.fill[order], 0))[: len(rows)]
        self._seat(rows[: len(to)], to)

    def _seats(self, count: int) -> NDArray[np.int64]:
        """Up to `count` free seats, the emptiest batches first; consecutive seats are in different batches."""
        at_level = np.cumsum(np.bincount(self.fill, minlength=self._batch_size + 1))[: self._batch_size]
        top = int(np.searchsorted(np.cumsum(at_level), count)) + 1
        free = self._rng.permutation(np.flatnonzero(self.fill < min(top, self._batch_size)))
        room = min(top, self._batch_size) - self.fill[free]
        seats = np.repeat(free, room)
        level = np.arange(len(seats)) - np.repeat(np.cumsum(room) - room, room) + self.fill[seats]
        return seats[np.argsort(level, kind="stable")][:count]

    def _fits(self, rows: Rows, to: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the rows whose groups are neither in their batch nor claimed there by an earlier of these rows."""
        codes = self._codes(rows, to)
        fits = ~self._seen.holds(codes).any(axis=1)
        codes[~fits] = NOWHERE
        first = np.zeros(codes.size, dtype=bool)
        first[np.unique(codes, return_index=True)[1]] = True
        return np.asarray(fits & (first.reshape(-1, 2) | (codes == NOWHERE)).all(axis=1))

    def _seat(self, rows: Rows, to: NDArray[np.int64]) -> None:
        self.batch[rows] = to
        self.fill += np.bincount(to, minlength=len(self.fill))
        codes = self._codes(rows, to)
        self._seen.add(codes[codes != NOWHERE])

    def _codes(self, rows: Rows, to: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number for each group in its batch, shape (rows, 2); `NOWHERE` where the group has but this row."""
        keys = self._keys[rows]
        codes = np.where(self.sizes[keys] > 1, to[:, None] * len(self.sizes) + keys, NOWHERE)
        codes[keys[:, 0] == keys[:, 1], 1] = NOWHERE
        return codes


class _Seen:
    """A growing set of numbers: sorted runs, merged when they are of similar length."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def add(self, numbers: NDArray[np.int64]) -> None:
        run = np.sort(numbers)
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        self._runs.append(run)

    def holds(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        found = np.zeros(numbers.shape, dtype=bool)
        for run in self._runs:
            if len(run):
                found |= run[np.minimum(np.searchsorted(run, numbers), len(run) - 1)] == numbers
        return found
