"""Blocks of rows that are planned independently: no group of one block's rows is in another block of the source.

Two rows of different blocks are never duplicates, so each block can be planned without the others: one after another
in little memory, or on several machines.
"""

import numpy as np
from numpy.typing import NDArray

from mnrl_job.batching.batch_assignment import Groups, Rows, assign_batches, group_sizes, rank_among_equals
from mnrl_job.data.components import find_components
from mnrl_job.data.integer_sets import dense_ranks
from mnrl_job.system.heartbeat import heartbeat

# So many take a third of a gigabyte while they are planned.
ROWS_PER_BLOCK = 2_000_000
# So many times the rows that a block may leave over are looked through for different groups.
CANDIDATES = 64


def divide(groups: Groups, batches: int, rng: np.random.Generator) -> list[Rows]:
    """Divide the rows of a source into blocks of random connected components.

    A group of s rows stays apart in s batches, so its block is large enough to get as many of the source's. A component
    larger than a block is a block of its own: data in which nearly all rows are connected is planned as a whole.

    Args:
        groups: anchor group and positive group of each row of the source, shape (rows, 2).
        batches: of the source in an epoch.
        rng: decides which components share a block.

    Returns:
        The rows of each block in ascending order, counted from the first of the source.
    """
    if len(groups) <= ROWS_PER_BLOCK or not batches:
        return [np.arange(len(groups))]
    components = dense_ranks(find_components(groups))
    sizes = np.bincount(components)
    largest_group = np.zeros(len(sizes), dtype=np.int64)
    np.maximum.at(largest_group, components, group_sizes(groups)[groups].max(axis=1))
    least = np.maximum(-(-largest_group * len(groups) // batches), ROWS_PER_BLOCK // 2)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-least[order], kind="stable")]
    block_of_component = np.empty(len(sizes), dtype=np.uint16)
    block_of_component[order] = _cut(sizes[order], least[order])
    block_of_row = block_of_component[components]
    ends = np.cumsum(np.bincount(block_of_row))
    return np.split(np.argsort(block_of_row, kind="stable"), ends[:-1])


def _cut(sizes: NDArray[np.int64], least: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut a sequence of components, the most demanding first, into blocks; returns the block of each.

    Args:
        sizes: rows of each component.
        least: rows that a block with the component must have.
    """
    ends = np.cumsum(sizes)
    cuts: list[int] = []
    first = 0
    while True:
        start = ends[first] - sizes[first]
        first = int(np.searchsorted(ends, start + max(least[first], ROWS_PER_BLOCK))) + 1
        if first >= len(ends) or ends[-1] - ends[first - 1] < least[first]:
            return np.searchsorted(cuts, np.arange(len(sizes)), side="right")
        cuts.append(first)


def plan_block(
    groups: Groups, batches: int, batch_size: int, spare: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Rows]:
    """Plan batches of random rows, and leave over up to `spare` of the rest, if possible of different, small groups.

    Args:
        groups: anchor group and positive group of each row of the block.
        batches: number of full batches to plan, at most as many as the rows fill.
        batch_size: rows of a batch.
        spare: number of rows to leave over for batches that no block fills alone.
        rng: of the block.

    Returns:
        Rows of each batch, shape (batches, batch_size), and the rows left over.
    """
    rows = rng.permutation(len(groups))[: batches * batch_size + spare]
    is_left = np.zeros(len(rows), dtype=bool)
    if spare := len(rows) - batches * batch_size:
        sizes = group_sizes(groups[rows])[groups[rows]].max(axis=1)
        candidates = np.argsort(np.minimum(sizes, 2**16 - 1).astype(np.uint16), kind="stable")[: CANDIDATES * spare]
        repeats = np.max([rank_among_equals(column) for column in groups[rows[candidates]].T], axis=0)
        is_left[candidates[np.argsort(repeats, kind="stable")[:spare]]] = True
    left, rows = rows[is_left], rows[~is_left]
    batch_of_row = assign_batches(groups[rows], batches, rng)
    return rows[np.argsort(batch_of_row, kind="stable")].reshape(batches, batch_size), left


def plan_source(
    groups: Groups, blocks: list[Rows], batches: int, batch_size: int, generators: list[np.random.Generator]
) -> list[NDArray[np.int64]]:
    """Plan the batches of a source block by block, and the last few from what all blocks leave over.

    Args:
        groups: anchor group and positive group of each row.
        blocks: the rows of each.
        batches: to plan, in proportion to the blocks' rows.
        batch_size: rows of a batch.
        generators: of each block, and of the rows left over.
    """
    rows = max(1, sum(map(len, blocks)))
    plans, left = [], []
    for block, rng in zip(blocks, generators[:-1], strict=True):
        own_batches = batches * len(block) // rows
        plan, rest = plan_block(_number_densely(groups[block]), own_batches, batch_size, batch_size, rng)
        plans.append(block[plan])
        left.append(block[rest])
        heartbeat()
    block = np.concatenate(left)
    missing = batches - sum(map(len, plans))
    plan, _ = plan_block(_number_densely(groups[block]), missing, batch_size, 0, generators[-1])
    return [*plans, block[plan]]


def _number_densely(groups: Groups) -> Groups:
    """The same groups, numbered from 0: arrays over the groups of a block are as long as the block."""
    return np.unique(groups, return_inverse=True)[1].reshape(groups.shape)
