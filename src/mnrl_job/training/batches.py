"""The global batch plan: which rows meet, in which step, on all ranks together.

In MNRL every other positive of the batch is a negative, so two rows that share a text must not meet: one's positive
would be pushed away as the other's negative. The plan of an epoch is a pure function of (texts, batch size, seed,
epoch), so every rank computes the same one without talking, and one process or eight train on the same batches.
"""

import numpy as np
from numpy.typing import NDArray

Plan = NDArray[np.int64]


def plan_epoch(text_ids: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> Plan:
    """Lay out one epoch.

    Rows come in random order and go to the first batch with room that no row sharing one of their texts has reached
    yet. Each row is used at most once; those left over when no further batch can be filled are dropped for this epoch
    (another epoch's order drops others). Time is near linear in the rows.

    Args:
        text_ids: shape (rows, columns); equal numbers are equal texts.
        batch_size: rows of a global batch.
        seed: the run's seed.
        epoch: counts from 0.

    Returns:
        Row numbers, shape (steps, batch_size).
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(text_ids))
    limit = len(order) // batch_size
    batches: list[list[int]] = [[] for _ in range(limit)]
    open_at = _FirstOpen(limit)
    earliest: dict[int, int] = {}
    for row, texts in zip(order.tolist(), text_ids[order].tolist(), strict=True):
        at = open_at.find(max(earliest.get(text, 0) for text in texts))
        if at == limit:
            continue
        batches[at].append(row)
        earliest.update(dict.fromkeys(texts, at + 1))
        if len(batches[at]) == batch_size:
            open_at.close(at)
    full = [batch for batch in batches if len(batch) == batch_size]
    return np.array(full, dtype=np.int64).reshape(-1, batch_size)


class _FirstOpen:
    """The first batch at or after an index that still has room (union-find over closed batches)."""

    def __init__(self, count: int) -> None:
        self._next = list(range(count + 1))

    def find(self, at: int) -> int:
        while self._next[at] != at:
            self._next[at] = self._next[self._next[at]]
            at = self._next[at]
        return at

    def close(self, at: int) -> None:
        self._next[at] = at + 1


def plan_run(text_ids: NDArray[np.int64], batch_size: int, seed: int, epochs: int, max_steps: int | None) -> Plan:
    """All epochs one after another, cut at `max_steps`. Shape (steps, batch_size)."""
    plans = [np.empty((0, batch_size), dtype=np.int64)]
    steps = 0
    for epoch in range(epochs):
        if max_steps is not None and steps >= max_steps:
            break
        plans.append(plan_epoch(text_ids, batch_size, seed, epoch))
        steps += len(plans[-1])
    return np.concatenate(plans)[:max_steps]
