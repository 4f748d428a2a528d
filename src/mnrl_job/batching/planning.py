"""The global batch plan: which rows share a batch, in which step, on all ranks together.

In MNRL every other positive of the batch is a negative. So the rows of a group are spread as evenly as possible over
the batches, which keeps duplicates apart wherever that is possible; the loss masks what is left. The plan of an epoch
is a pure function of (groups, config, epoch), so every rank computes the same one, and one process or eight train on
the same batches.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mnrl_job.batching.batch_assignment import Groups, assign_batches, group_sizes
from mnrl_job.system.heartbeat import heartbeat

Plan = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SourceShare:
    """A source's consecutive rows of the data, and its weight in the mixture, if it was given one."""

    rows: int
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class PlanConfig:
    """What decides the batches of a run, beside the groups of its rows.

    Attributes:
        batch_size: rows of a global batch.
        sources: in the order of their rows. A batch is of one source.
        seed: the run's.
        epochs: of the run.
        max_steps: where the run ends, if earlier.
    """

    batch_size: int
    sources: tuple[SourceShare, ...]
    seed: int
    epochs: int = 1
    max_steps: int | None = None


def batches_by_source(config: PlanConfig) -> tuple[int, ...]:
    """Number of batches of each source in an epoch.

    Without weights each source contributes all the batches it can fill. With weights (default 1) batches are in the
    proportion of the weights, as many as the source that runs out first allows.
    """
    full_batches = [source.rows // config.batch_size for source in config.sources]
    if all(source.weight is None for source in config.sources):
        return tuple(full_batches)
    weights = [1.0 if source.weight is None else source.weight for source in config.sources]
    unit = min(count / weight for count, weight in zip(full_batches, weights, strict=True))
    # The small addend makes 3 * (1 / 3) round to 1.
    return tuple(int(unit * weight + 1e-9) for weight in weights)


def plan_epoch(groups: Groups, config: PlanConfig, epoch: int) -> Plan:
    """Plan one epoch.

    No row is used twice. Which rows are left out, where a source's do not fill the last batch, and the order of the
    batches are random, anew in each epoch: nothing is carried over into the next.

    Args:
        groups: anchor group and positive group of each row, shape (rows, 2).
        config: of the run.
        epoch: counts from 0.

    Returns:
        Row numbers, shape (steps, batch_size).
    """
    rng = np.random.default_rng((config.seed, epoch))
    starts = np.cumsum([0, *(source.rows for source in config.sources)]).tolist()
    batches = [np.empty((0, config.batch_size), dtype=np.int64)]
    for (start, stop), count in zip(pairwise(starts), batches_by_source(config), strict=True):
        rows = start + rng.permutation(stop - start)[: count * config.batch_size]
        batch_of_row = assign_batches(groups[rows], count, rng)
        batches.append(rows[np.argsort(batch_of_row, kind="stable")].reshape(count, config.batch_size))
    return rng.permutation(np.concatenate(batches))


def plan_epochs(groups: Groups, config: PlanConfig) -> list[Plan]:
    """Each epoch of a run, the last one cut at `max_steps`; shapes (steps, batch_size)."""
    plans: list[Plan] = []
    remaining = config.max_steps
    for epoch in range(config.epochs):
        plans.append(plan_epoch(groups, config, epoch)[:remaining])
        heartbeat()
        if remaining is not None:
            remaining -= len(plans[-1])
            if not remaining:
                break
    return plans


def largest_batch_without_duplicates(groups: Groups) -> int:
    """The largest batch size at which the rows of every group fit into different batches."""
    return len(groups) // int(group_sizes(groups).max(initial=1))


def false_negatives_at_random(groups: Groups, batch_size: int) -> float:
    """Expected number of false negatives in a batch of random rows, before masking."""
    rows = len(groups)
    pairs = _false_negative_pairs(np.zeros(rows, dtype=np.int64), groups)
    return pairs * batch_size * (batch_size - 1) / max(1, rows * (rows - 1))


def false_negatives_in(groups: Groups, plan: Plan) -> float:
    """Average number of false negatives in a batch of the plan, before masking.

    Counts rows that share a group. The loss also masks positives that only rows outside the batch give an anchor.
    """
    batch_of_row = np.repeat(np.arange(len(plan)), plan.shape[1])
    return _false_negative_pairs(batch_of_row, groups[plan.ravel()]) / max(1, len(plan))


def _false_negative_pairs(batch_of_row: NDArray[np.int64], groups: Groups) -> int:
    """Number of ordered pairs of rows in the same batch that share their anchor's or their positive's group."""
    span = groups.max(initial=0) + 1
    anchors, positives = (np.unique(batch_of_row * span + groups[:, side], return_inverse=True)[1] for side in (0, 1))
    both = anchors * (positives.max(initial=0) + 1) + positives
    counts = [np.unique(codes, return_counts=True)[1] for codes in (anchors, positives, both)]
    same_anchor, same_positive, same_both = (int((count * (count - 1)).sum()) for count in counts)
    return same_anchor + same_positive - same_both
