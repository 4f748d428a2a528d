"""Many rows are planned in blocks that share no group: as well as all at once, and each without the others."""

from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnrl_job.batching import blocks as blocks_module
from mnrl_job.batching import planning
from mnrl_job.batching.batch_assignment import group_sizes
from mnrl_job.batching.planning import (
    PlanConfig,
    SourceShare,
    batches_by_source,
    divide_sources,
    false_negatives_in,
    largest_batch_without_duplicates,
    plan_epoch,
    plan_epochs,
)
from tests.batching.groups import BIPARTITE, MIXED, distinct_anchors, epoch_of, repeated_groups, zipf

SMALL = st.integers(10, 60)


def scattered(rows, texts, is_bipartite, seed):
    groups = np.random.default_rng(seed).integers(0, texts * rows, (rows, 2))
    return groups + is_bipartite * np.array([0, texts * rows])


# From few large components to many small ones.
SCATTERED = st.builds(scattered, st.integers(40, 200), st.integers(1, 4), st.booleans(), st.integers(0, 99))
SCATTERED_BIPARTITE = st.builds(scattered, st.integers(40, 200), st.integers(1, 4), st.just(True), st.integers(0, 99))


@contextmanager
def rows_per_block(rows):
    with (
        mock.patch.object(blocks_module, "ROWS_PER_BLOCK", rows),
        mock.patch.object(planning, "ROWS_PER_BLOCK", rows),
    ):
        yield


def one_source(groups, batch_size, epochs=1):
    return PlanConfig(batch_size, (SourceShare(len(groups)),), 1, epochs)


def plan_in_blocks(groups, config, rows):
    with rows_per_block(rows):
        blocks = divide_sources(groups, config)
        return blocks, plan_epoch(groups, blocks, config, 0)


def batches_within(plan, block):
    return plan[np.isin(plan, block).all(axis=1)]


def batches_filled_alone(blocks, config):
    """Of each source; the others are filled with what the blocks leave over."""
    return [
        sum(batches * len(block) // max(1, sum(map(len, of_source))) for block in of_source)
        for of_source, batches in zip(blocks, batches_by_source(config), strict=True)
    ]


def with_copies(rows, seed=0):
    """As large data is: most texts differ, 3 % are copies, and some are frequent."""
    rng = np.random.default_rng(seed)
    positives = np.arange(rows)
    frequent = rng.random(rows) < 0.01
    positives[frequent] = rows + zipf(rows, seed=seed)[frequent]
    copied = rng.random(rows) < 0.03
    positives[copied] = rng.choice(positives, copied.sum())
    return distinct_anchors(positives)


@settings(max_examples=300)
@given(
    groups=MIXED, first=st.floats(0, 1), batch_size=st.integers(2, 9), weight=st.sampled_from([None, 3.0]), rows=SMALL
)
def test_every_source_has_all_its_batches_and_no_row_is_used_twice(groups, first, batch_size, weight, rows):
    first = round(first * len(groups))
    config = PlanConfig(batch_size, (SourceShare(first, weight), SourceShare(len(groups) - first)), 1)
    _, plan = plan_in_blocks(groups, config, rows)
    assert plan.shape == (sum(batches_by_source(config)), batch_size)
    assert len(np.unique(plan)) == plan.size
    is_first = plan < first
    assert (is_first == is_first[:, :1]).all(), "a batch is of one source"
    assert is_first[:, 0].sum() == batches_by_source(config)[0]


@settings(max_examples=300)
@given(groups=SCATTERED, batch_size=st.integers(2, 9), rows=SMALL)
def test_blocks_have_every_row_once_and_share_no_group(groups, batch_size, rows):
    (blocks,), _ = plan_in_blocks(groups, one_source(groups, batch_size), rows)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(groups)))
    texts = [set(groups[block].ravel().tolist()) for block in blocks]
    assert len(set.union(*texts)) == sum(map(len, texts))


@settings(max_examples=300)
@given(groups=BIPARTITE | SCATTERED_BIPARTITE, size=st.floats(0, 1), rows=SMALL)
def test_only_batches_of_rows_left_over_can_repeat_a_text_that_all_rows_together_keep_apart(groups, size, rows):
    batch_size = max(1, round(size * largest_batch_without_duplicates(groups)))
    config = one_source(groups, batch_size)
    blocks, plan = plan_in_blocks(groups, config, rows)
    repeating = sum(bool(repeated_groups(groups, batch)) for batch in plan)
    assert repeating <= len(plan) - sum(batches_filled_alone(blocks, config))


@pytest.mark.parametrize("seed", range(3))
def test_data_with_some_copies_is_planned_in_blocks_with_every_row_and_no_duplicates_in_a_batch(seed):
    groups = with_copies(20_000, seed)
    (blocks,), plan = plan_in_blocks(groups, one_source(groups, 16), 3_000)
    assert len(blocks) >= 5
    assert max(map(len, blocks)) < 1.6 * 3_000
    assert plan.size == 20_000
    assert false_negatives_in(groups, plan) == 0
    assert sum(len(batches_within(plan, block)) for block in blocks) < len(plan), "some rows were left over"


def test_rows_left_over_are_of_different_texts_where_a_block_has_as_many():
    groups = distinct_anchors(np.arange(4_000) // 20)
    config = one_source(groups, 16)
    blocks, plan = plan_in_blocks(groups, config, 900)
    assert sum(batches_filled_alone(blocks, config)) < len(plan)
    assert false_negatives_in(groups, plan) == 0


def test_the_rows_of_each_block_stay_together_in_all_epochs_in_different_batches():
    groups = with_copies(4_000)
    config = one_source(groups, 16, epochs=3)
    with rows_per_block(1_000):
        blocks = divide_sources(groups, config)
        plans = list(plan_epochs(groups, config))
    for plan in plans:
        assert sum(len(batches_within(plan, block)) for block in blocks[0]) >= sum(batches_filled_alone(blocks, config))
    assert len({tuple(np.sort(plan[np.where(plan == 0)[0][0]])) for plan in plans}) == 3


def test_the_plan_of_a_block_does_not_depend_on_the_texts_of_other_blocks():
    groups = with_copies(4_000)
    config = PlanConfig(16, (SourceShare(1_500), SourceShare(2_500)), 1)
    blocks, plan = plan_in_blocks(groups, config, 1_000)
    for block in (block for of_source in blocks for block in of_source):
        others = np.setdiff1d(np.arange(4_000), block)
        changed = groups.copy()
        changed[others] = np.random.default_rng(0).integers(10_000, 10_050, (len(others), 2))
        with rows_per_block(1_000):
            changed_plan = plan_epoch(changed, blocks, config, 0)
        same = {tuple(batch) for batch in batches_within(plan, block).tolist()}
        assert len(same) >= 30
        assert same <= {tuple(batch) for batch in changed_plan.tolist()}


def test_a_frequent_text_gets_a_block_of_as_many_batches_as_it_has_rows():
    positives = np.arange(8_000)
    positives[:300] = 0
    groups = distinct_anchors(positives)
    (blocks,), plan = plan_in_blocks(groups, one_source(groups, 16), 1_000)
    of_text = next(block for block in blocks if 0 in block)
    assert group_sizes(groups).max() == 300 <= len(of_text) // 16 < 400
    assert len(blocks) > 3
    assert false_negatives_in(groups, plan) == 0


def test_connected_rows_are_one_block_with_the_plan_of_all_rows_at_once():
    groups = np.stack([np.arange(1_000), 10_000 + np.arange(1_000) % 40], axis=1)
    groups[::2, 0] = 0
    blocks, plan = plan_in_blocks(groups, one_source(groups, 16), 100)
    assert list(map(len, blocks[0])) == [1_000]
    assert plan.tolist() == epoch_of(groups, 16).tolist()
