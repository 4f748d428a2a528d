"""Assignment of rows to batches so that the rows of each group are spread as evenly as possible.

With groups as vertices and each row as an edge between its anchor's and its positive's group, T batches are T colors
of an edge coloring with color classes of equal size. A group of more than T rows is first split into groups of T, each
of which can be once in every batch. If no text is both an anchor and a positive, the graph is bipartite, and the
coloring exists by the theorems of König and de Werra.

Most rows are assigned in bulk, largest groups first. Rows that then fit nowhere are placed along alternating paths,
unless their group was split: such duplicates share batches anyway. Rows whose groups occur once fit anywhere and come
last.
"""

import numpy as np
from numpy.typing import NDArray

from mnrl_job.batching.kempe_chains import UNASSIGNED, KempeChains

# Shape (rows, 2): the group of each row's anchor and positive.
Groups = NDArray[np.int64]
Rows = NDArray[np.int64]
Batches = NDArray[np.int64]

ATTEMPTS_PER_ROUND = 12
# A round takes the groups of 4^k to 4^(k+1) rows.
ROUND_BITS = 2


def assign_batches(groups: Groups, batches: int, rng: np.random.Generator) -> Batches:
    """Assign rows to batches of equal size.

    Args:
        groups: of the rows, of which there are a multiple of `batches`.
        batches: number of batches.
        rng: decides between equally good assignments.

    Returns:
        The batch of each row, shape (rows,).
    """
    if not batches:
        return np.empty(0, dtype=np.int64)
    sizes = group_sizes(groups)
    assignment = _Assignment(split_large_groups(groups, batches), batches, rng)
    unassigned = np.concatenate(
        [np.empty(0, dtype=np.int64), *(assignment.assign_round(rows) for rows in assignment.rounds())]
    )
    repairable = unassigned[(sizes[groups[unassigned]] <= batches).all(axis=1)]
    if len(repairable):
        chains = KempeChains(assignment.groups, assignment.batch, assignment.fill, assignment.batch_size)
        chains.place(repairable.tolist())
    assignment.fill_up()
    return assignment.batch


def group_sizes(groups: Groups) -> NDArray[np.int64]:
    """Number of rows of each group, as anchor or positive; a row of one group in both columns counts once."""
    sizes = np.bincount(groups.ravel(), minlength=1)
    same = groups[:, 0] == groups[:, 1]
    return np.asarray(sizes - np.bincount(groups[same, 0], minlength=len(sizes)))


def split_large_groups(groups: Groups, limit: int) -> Groups:
    """Split each group of more than `limit` rows into as few as possible, all but one of `limit` rows."""
    sizes = group_sizes(groups)
    new_groups = np.maximum(-(-sizes // limit) - 1, 0)
    if not new_groups.any():
        return groups
    flat = groups.ravel().copy()
    same = np.flatnonzero(groups[:, 0] == groups[:, 1])
    large = new_groups[flat] > 0
    large[2 * same + 1] = False
    part = rank_among_equals(flat[large]) // limit
    first_new = len(sizes) + np.cumsum(new_groups) - new_groups
    flat[large] = np.where(part > 0, first_new[flat[large]] + part - 1, flat[large])
    flat[2 * same + 1] = flat[2 * same]
    return flat.reshape(-1, 2)


def rank_among_equals(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each value the number of equal values before it."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=values.min(initial=0) - 1))
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(len(values)) - np.repeat(starts, np.diff(starts, append=len(values)))
    return ranks


class _Assignment:
    """Batches being filled.

    Attributes:
        groups: of the rows, none with more rows than there are batches.
        batch: of each row, or `UNASSIGNED`.
        fill: number of rows in each batch.
        batch_size: rows of a full batch.
    """

    def __init__(self, groups: Groups, batches: int, rng: np.random.Generator) -> None:
        self.groups = groups
        self.batch = np.full(len(groups), UNASSIGNED, dtype=np.int64)
        self.fill = np.zeros(batches, dtype=np.int64)
        self.batch_size = len(groups) // batches
        self._sizes = group_sizes(groups)
        self._rng = rng
        self._assigned = _IntegerSet()

    def rounds(self) -> list[Rows]:
        """Rows that share a group with others, the largest groups first, each group's rows in succession."""
        sizes = self._sizes[self.groups]
        largest = sizes.max(axis=1)
        rows = self._rng.permutation(np.flatnonzero(largest > 1))
        larger_group = np.where(sizes[rows, 0] > sizes[rows, 1], self.groups[rows, 0], self.groups[rows, 1])
        # Groups of equal size come in random order, too.
        position = np.empty(len(self._sizes), dtype=np.int64)
        by_size = np.lexsort((self._rng.permutation(len(self._sizes)), -self._sizes))
        position[by_size] = np.arange(len(self._sizes))
        rows = rows[np.argsort(position[larger_group], kind="stable")]
        number = np.log2(largest[rows]).astype(np.int64) // ROUND_BITS
        return np.split(rows, np.flatnonzero(np.diff(number)) + 1) if len(rows) else []

    def assign_round(self, rows: Rows) -> Rows:
        """Assign rows in bulk; those that collide are tried again elsewhere. Returns the rows that fit nowhere."""
        for _ in range(ATTEMPTS_PER_ROUND):
            slots = self._free_slots(len(rows))
            fits = self._fits(rows[: len(slots)], slots)
            self._assign(rows[: len(slots)][fits], slots[fits])
            rows = np.concatenate([rows[: len(slots)][~fits], rows[len(slots) :]])
            if not fits.any():
                break
        return rows

    def fill_up(self) -> None:
        """Assign the remaining rows, and those in excess of a batch's size, to the batches that have room."""
        excess = (self.fill > self.batch_size)[self.batch] & (self.batch != UNASSIGNED)
        excess[excess] = rank_among_equals(self.batch[excess]) >= self.batch_size
        self.batch[excess] = UNASSIGNED
        rows = self._rng.permutation(np.flatnonzero(self.batch == UNASSIGNED))
        self.batch[rows] = np.repeat(np.arange(len(self.fill)), np.maximum(self.batch_size - self.fill, 0))

    def _free_slots(self, count: int) -> Batches:
        """Up to `count` free slots, the emptiest batches first; consecutive slots are in different batches."""
        slots_by_level = np.cumsum(np.bincount(self.fill, minlength=self.batch_size + 1))[: self.batch_size]
        top = min(int(np.searchsorted(np.cumsum(slots_by_level), count)) + 1, self.batch_size)
        free = self._rng.permutation(np.flatnonzero(self.fill < top))
        room = top - self.fill[free]
        slots = np.repeat(free, room)
        level = np.arange(len(slots)) - np.repeat(np.cumsum(room) - room, room) + self.fill[slots]
        return slots[np.argsort(level, kind="stable")][:count]

    def _fits(self, rows: Rows, slots: Batches) -> NDArray[np.bool_]:
        """Mark rows whose groups are not yet in their batch, nor taken there by an earlier one of these rows."""
        codes = self._codes(rows, slots)
        fits = ~self._assigned.contains(codes).any(axis=1)
        codes[~fits] = UNASSIGNED
        first = np.zeros(codes.size, dtype=bool)
        first[np.unique(codes, return_index=True)[1]] = True
        return np.asarray(fits & (first.reshape(-1, 2) | (codes == UNASSIGNED)).all(axis=1))

    def _assign(self, rows: Rows, slots: Batches) -> None:
        self.batch[rows] = slots
        self.fill += np.bincount(slots, minlength=len(self.fill))
        codes = self._codes(rows, slots)
        self._assigned.add(codes[codes != UNASSIGNED])

    def _codes(self, rows: Rows, slots: Batches) -> NDArray[np.int64]:
        """A number for each group in its batch, shape (rows, 2); `UNASSIGNED` for a group of one row."""
        groups = self.groups[rows]
        codes = np.where(self._sizes[groups] > 1, slots[:, None] * len(self._sizes) + groups, UNASSIGNED)
        codes[groups[:, 0] == groups[:, 1], 1] = UNASSIGNED
        return codes


class _IntegerSet:
    """A growing set of integers: sorted runs, merged when they are of similar length."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def add(self, numbers: NDArray[np.int64]) -> None:
        run = np.sort(numbers)
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        self._runs.append(run)

    def contains(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        result = np.zeros(numbers.shape, dtype=bool)
        for run in self._runs:
            if len(run):
                result |= run[np.minimum(np.searchsorted(run, numbers), len(run) - 1)] == numbers
        return result
