"""The global batch plan: which rows meet, in which step, on all ranks together.

In MNRL every other positive of the batch is a negative, so two rows that share a group must not meet: one's positive
would be pushed away as the other's negative. The plan of an epoch is a pure function of (groups, rule, seed, epoch), so
every rank has the same one without talking, and one process or eight train on the same batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mnrl_job.batching.batch_assignment import assign_batches
from mnrl_job.batching.max_batches import Keys, max_batches, usable_rows
from mnrl_job.system.heartbeat import heartbeat

Plan = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SourceShare:
    """A source's part of the data: so many consecutive rows, and its weight in the mixture, if it was given one."""

    rows: int
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class PlanConfig:
    """How rows become batches.

    Attributes:
        batch_size: rows of a global batch.
        shares: the sources, in the order of their rows. A batch is of one source.
        masked: rows that share a group may meet; the loss must then leave them out as negatives.
    """

    batch_size: int
    shares: tuple[SourceShare, ...]
    masked: bool = False


def batches_by_source(groups: Keys, rule: PlanConfig) -> tuple[int, ...]:
    """How many batches of each source an epoch has.

    Without weights each source gives all the batches it can fill. With weights (1 where none is given) batches stand in
    the proportion of the weights, as many as the source that runs out first allows.
    """
    most = [
        len(keys) // rule.batch_size if rule.masked else max_batches(keys, rule.batch_size)
        for _, keys in _by_source(groups, rule)
    ]
    if all(share.weight is None for share in rule.shares):
        return tuple(most)
    weights = [1.0 if share.weight is None else share.weight for share in rule.shares]
    unit = min(count / weight for count, weight in zip(most, weights, strict=True))
    # A hair more before rounding down, so that 3 * (1 / 3) is 1.
    return tuple(int(unit * weight + 1e-9) for weight in weights)


def plan_epoch(groups: Keys, rule: PlanConfig, counts: Sequence[int], seed: int, epoch: int) -> Plan:
    """Lay out one epoch.

    No two rows of a batch share a group (unless the rule is `masked`), no row is used twice. Which rows are left out,
    where not all fill a batch, and in which order the batches come is random, anew in each epoch: nothing is carried
    over into the next.

    Args:
        groups: anchor group and positive group of each row (further columns are ignored), shape (rows, columns).
        rule: how rows become batches.
        counts: batches of each source, from `batches_by_source`.
        seed: the run's seed.
        epoch: counts from 0.

    Returns:
        Row numbers, shape (steps, batch_size).
    """
    rng = np.random.default_rng((seed, epoch))
    parts = [np.empty((0, rule.batch_size), dtype=np.int64)]
    for (start, keys), count in zip(_by_source(groups, rule), counts, strict=True):
        rows = _drawn(len(keys), rule, count, rng) if rule.masked else _planned(keys, rule, count, rng)
        parts.append(start + rows)
    return rng.permutation(np.concatenate(parts))


def plan_epochs(
    groups: Keys, rule: PlanConfig, counts: Sequence[int], seed: int, epochs: int, max_steps: int | None
) -> list[Plan]:
    """Each epoch of a run, the last one cut at `max_steps`. Shapes (steps, batch_size)."""
    plans: list[Plan] = []
    left = max_steps
    for epoch in range(epochs):
        plans.append(plan_epoch(groups, rule, counts, seed, epoch)[:left])
        heartbeat()
        if left is not None:
            left -= len(plans[-1])
            if not left:
                break
    return plans


def _by_source(groups: Keys, rule: PlanConfig) -> list[tuple[int, Keys]]:
    """The first row and the groups of each source."""
    starts = np.cumsum([0, *(share.rows for share in rule.shares)])
    return [(start, groups[start:stop, :2]) for start, stop in pairwise(starts.tolist())]


def _drawn(rows: int, rule: PlanConfig, count: int, rng: np.random.Generator) -> Plan:
    return rng.permutation(rows)[: count * rule.batch_size].reshape(count, rule.batch_size)


def _planned(keys: Keys, rule: PlanConfig, count: int, rng: np.random.Generator) -> Plan:
    order = rng.permutation(len(keys))
    rows = rng.permutation(order[usable_rows(keys[order], count)])[: count * rule.batch_size]
    batch = assign_batches(keys[rows], count, rule.batch_size, rng)
    whole = np.flatnonzero(np.bincount(batch[batch >= 0], minlength=count) == rule.batch_size)
    dealt = np.argsort(batch, kind="stable")
    dealt = dealt[np.isin(batch[dealt], whole)]
    return rows[dealt].reshape(-1, rule.batch_size)


def false_negatives_at_random(groups: Keys, batch_size: int) -> float:
    """How many false negatives a batch of rows drawn at random is to be expected to hold."""
    rows = len(groups)
    return _sharing(np.zeros(rows, dtype=np.int64), groups) * batch_size * (batch_size - 1) / max(1, rows * (rows - 1))


def false_negatives_in(groups: Keys, plan: Plan) -> float:
    """How many false negatives a batch of the plan holds, on average."""
    batch = np.repeat(np.arange(len(plan)), plan.shape[1])
    return _sharing(batch, groups[plan.ravel()]) / max(1, len(plan))


def _sharing(batch: NDArray[np.int64], groups: Keys) -> int:
    """How often one row's positive would wrongly be a negative of another row's anchor in the same batch.

    That is the case for each of two rows that share their anchor's group or their positive's.
    """
    span = groups.max(initial=0) + 1
    anchors, positives = (np.unique(batch * span + groups[:, side], return_inverse=True)[1] for side in (0, 1))
    both = anchors * (positives.max(initial=0) + 1) + positives
    by_anchor, by_positive, by_both = (np.unique(one, return_counts=True)[1] for one in (anchors, positives, both))
    pairs = [int((counts * (counts - 1)).sum()) for counts in (by_anchor, by_positive, by_both)]
    return pairs[0] + pairs[1] - pairs[2]
