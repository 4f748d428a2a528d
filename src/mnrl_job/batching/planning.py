"""The global batch plan: which rows share a batch, in which step, on all ranks together.

In MNRL every other positive of the batch is a negative. So the rows of a group are spread as evenly as possible over
the batches, which keeps duplicates apart wherever that is possible; the loss masks what is left. The plan of an epoch
is a pure function of (groups, config, epoch), so every rank computes the same one, and one process or eight train on
the same batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mnrl_job.batching.batch_assignment import Groups, Rows, group_sizes
from mnrl_job.batching.blocks import ROWS_PER_BLOCK, divide, plan_block, plan_source
from mnrl_job.data.integer_sets import Integers
from mnrl_job.system.heartbeat import heartbeat

Plan = NDArray[np.int64]
# Of which an epoch's false negatives are counted.
ROWS_COUNTED_AT_ONCE = 1_000_000
# Of each source.
Blocks = list[list[Rows]]


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


def steps_of_run(config: PlanConfig) -> int:
    """Number of batches of all epochs, up to `max_steps`."""
    steps = config.epochs * sum(batches_by_source(config))
    return steps if config.max_steps is None else min(steps, config.max_steps)


def divide_sources(groups: Groups, config: PlanConfig) -> Blocks:
    """Divide the rows of each source into blocks, once for all epochs of a run."""
    starts = np.cumsum([0, *(source.rows for source in config.sources)]).tolist()
    generators = np.random.default_rng(config.seed).spawn(len(config.sources))
    return [
        [start + rows for rows in divide(groups[start:stop], batches, rng)]
        for (start, stop), batches, rng in zip(pairwise(starts), batches_by_source(config), generators, strict=True)
    ]


def plan_epoch(groups: Groups, blocks: Blocks, config: PlanConfig, epoch: int) -> Plan:
    """Plan one epoch.

    No row is used twice. Which rows are left out, where a source's do not fill the last batch, and the order of the
    batches are random, anew in each epoch: nothing is carried over into the next.

    Args:
        groups: anchor group and positive group of each row, shape (rows, 2).
        blocks: of each source.
        config: of the run.
        epoch: counts from 0.

    Returns:
        Row numbers, shape (steps, batch_size).
    """
    rng = np.random.default_rng((config.seed, epoch))
    fits_one_block = len(groups) <= ROWS_PER_BLOCK or sum(map(len, blocks)) == 1
    plans = []
    for of_source, batches, own in zip(blocks, batches_by_source(config), rng.spawn(len(blocks)), strict=True):
        if fits_one_block:
            (rows,) = of_source
            plans.append(rows[plan_block(groups[rows], batches, config.batch_size, 0, rng)[0]])
        else:
            plans += plan_source(groups, of_source, batches, config.batch_size, own.spawn(len(of_source) + 1))
    return rng.permutation(np.concatenate(plans))


def plan_epochs(groups: Groups, config: PlanConfig) -> Iterator[Plan]:
    """Each epoch of a run, the last one cut at `max_steps`; shapes (steps, batch_size)."""
    blocks = divide_sources(groups, config)
    steps = steps_of_run(config)
    for epoch in range(config.epochs):
        plan = plan_epoch(groups, blocks, config, epoch)[:steps]
        heartbeat()
        yield plan
        steps -= len(plan)
        if not steps:
            break


def largest_batch_without_duplicates(groups: Groups) -> int:
    """The largest batch size at which the rows of every group fit into different batches."""
    return len(groups) // int(group_sizes(groups).max(initial=1))


def false_negatives_at_random(groups: Groups, batch_size: int) -> float:
    """Expected number of false negatives in a batch of random rows, before masking."""
    rows = len(groups)
    pairs = _false_negative_pairs(*groups.T)
    return pairs * batch_size * (batch_size - 1) / max(1, rows * (rows - 1))


def false_negatives_in(groups: Groups, plan: Plan) -> float:
    """Average number of false negatives in a batch of the plan, before masking.

    Counts rows that share a group. The loss also masks positives that only rows outside the batch give an anchor.
    """
    span = int(groups.max(initial=0)) + 1
    pairs = 0
    for batches in np.array_split(plan, 1 + plan.size // ROWS_COUNTED_AT_ONCE):
        batch_of_row = np.arange(batches.size) // plan.shape[1]
        columns = groups[batches.ravel()].T
        pairs += _false_negative_pairs(
            *(np.unique(batch_of_row * span + column, return_inverse=True)[1] for column in columns)
        )
    return pairs / max(1, len(plan))


def _false_negative_pairs(anchors: Integers, positives: Integers) -> int:
    """Number of ordered pairs of rows whose anchors or positives are equal."""
    both = anchors * (np.int64(positives.max(initial=0)) + 1) + positives
    return _equal_pairs(anchors) + _equal_pairs(positives) - _equal_pairs(both)


def _equal_pairs(numbers: Integers) -> int:
    ordered = np.sort(numbers)
    starts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    counts = np.diff(starts, prepend=0, append=len(ordered))
    return int((counts * (counts - 1)).sum())
