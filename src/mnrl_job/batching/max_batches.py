"""How many batches the data can fill, and with which rows.

In T batches a group can stand at most T times, once in each. So no plan can use more rows than the largest set in which
no anchor group and no positive group has more than T rows, and T batches of B rows need T x B of them. By the theorems
of König and de Werra on colouring the edges of bipartite graphs, such a set suffices, too.

A group of more than T rows is called a hub. Rows between groups within the limit are all in the set. A row of one hub
costs that hub one place; a row between two hubs costs both one, so those come last, as many as a maximum flow between
the hubs finds. Hubs are few: less than rows / T on either side.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching, maximum_flow

Rows = NDArray[np.int64]
Keys = NDArray[np.int64]


def max_batches(keys: Keys, batch_size: int) -> int:
    """The largest number of full batches that any plan could make.

    Args:
        keys: anchor group and positive group of each row, shape (rows, 2).
        batch_size: rows of a batch.
    """
    sizes = _sizes(keys)
    low, at = 0, len(keys) // batch_size
    high = at
    # What T batches can use grows ever slower with T: once it does not fill them, more batches do not help.
    while low < high:
        if _Hubs.of(keys, sizes, at).count() >= at * batch_size:
            low = at
        else:
            high = at - 1
        at = (low + high + 1) // 2
    return low


def usable_rows(keys: Keys, batches: int) -> Rows:
    """The largest set of rows in which no group has more than `batches`. Where there is a choice, earlier rows win."""
    return _Hubs.of(keys, _sizes(keys), batches).choose()


def largest_batch(keys: Keys, share: float) -> int:
    """The largest batch with which a plan can use this share of the rows."""
    sizes = _sizes(keys)
    low, high = 1, max(1, int(sizes.max(initial=1)))
    while low < high:  # the fewer batches, the larger, but the fewer rows of a hub they can use
        at = (low + high) // 2
        if _Hubs.of(keys, sizes, at).count() >= share * len(keys):
            high = at
        else:
            low = at + 1
    return _Hubs.of(keys, sizes, low).count() // low


def largest_single_batch(keys: Keys) -> int:
    """The largest batch that can be filled once: a maximum matching (Hopcroft and Karp 1973)."""
    ones = np.ones(len(keys), dtype=bool)
    graph = csr_array((ones, (keys[:, 0], keys[:, 1])), shape=tuple(keys.max(axis=0) + 1))
    return int((maximum_bipartite_matching(graph) >= 0).sum())


def rank_among_equals(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each value how many equal ones stand before it."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-1))
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(len(values)) - np.repeat(starts, np.diff(starts, append=len(values)))
    return ranks


def _sizes(keys: Keys) -> NDArray[np.int64]:
    """The size of each row's anchor group and positive group, shape (2, rows)."""
    return np.stack([np.bincount(side)[side] for side in keys.T]) if len(keys) else np.empty((2, 0), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Hubs:
    """The rows by how many hubs they belong to: none, one (of either side), both."""

    keys: Keys
    limit: int
    none: NDArray[np.bool_]
    one: tuple[Rows, Rows]
    both: Rows

    @classmethod
    def of(cls, keys: Keys, sizes: NDArray[np.int64], limit: int) -> "_Hubs":
        hub = sizes > limit
        one = np.flatnonzero(hub[0] & ~hub[1]), np.flatnonzero(hub[1] & ~hub[0])
        return cls(keys, limit, np.asarray(~hub.any(axis=0)), one, np.flatnonzero(hub.all(axis=0)))

    def count(self) -> int:
        """How many rows `choose` would choose."""
        ones = sum(np.minimum(self._ones(side), self.limit).sum() for side in (0, 1))
        return int(self.none.sum() + ones) + (int(self._flow()[1].sum()) if len(self.both) else 0)

    def choose(self) -> Rows:
        kept = self.none.copy()
        for side, rows in enumerate(self.one):
            kept[rows] = rank_among_equals(self.keys[rows, side]) < self.limit
        if len(self.both):
            pair, wanted = self._flow()
            kept[self.both] = rank_among_equals(pair) < wanted[pair]
        return np.flatnonzero(kept)

    def _ones(self, side: int) -> NDArray[np.int64]:
        return np.bincount(self.keys[self.one[side], side], minlength=self.keys.max() + 1)

    def _flow(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number the pairs of hubs, and tell how many rows of each pair fit into the places its hubs have left."""
        anchors, anchor = np.unique(self.keys[self.both, 0], return_inverse=True)
        positives, positive = np.unique(self.keys[self.both, 1], return_inverse=True)
        pairs, pair, counts = np.unique(anchor * len(positives) + positive, return_inverse=True, return_counts=True)
        tails, heads = pairs // len(positives), len(anchors) + pairs % len(positives)
        source = len(anchors) + len(positives)
        edges = (
            np.concatenate([np.full(len(anchors), source), tails, len(anchors) + np.arange(len(positives))]),
            np.concatenate([np.arange(len(anchors)), heads, np.full(len(positives), source + 1)]),
        )
        room = [np.maximum(self.limit - self._ones(side)[hubs], 0) for side, hubs in enumerate((anchors, positives))]
        capacity = np.concatenate([room[0], counts, room[1]]).astype(np.int32)
        flow = maximum_flow(csr_array((capacity, edges), shape=(source + 2, source + 2)), source, source + 1).flow
        return pair, np.asarray(flow[tails, heads]).ravel()
