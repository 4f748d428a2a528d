"""The batch plan of a run: epochs, sources, ranks, and the false negatives in it."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.batching.planning import (
    PlanConfig,
    SourceShare,
    false_negatives_at_random,
    false_negatives_in,
    largest_batch_without_duplicates,
    plan_epochs,
)
from mnrl_job.training.data_order_digest import data_order_digest
from mnrl_job.training.sampler import PlannedBatches
from tests.batching.groups import BIPARTITE, MIXED, distinct_anchors, epoch_of, zipf


def plan_of(groups, batch_size, *sources, epochs=1, max_steps=None):
    return np.concatenate(list(plan_epochs(groups, PlanConfig(batch_size, sources, 1, epochs, max_steps))))


@given(ranks=st.integers(1, 8), more=st.integers(0, 20), groups=MIXED)
def test_the_slices_of_a_step_are_one_global_batch_and_differ_by_at_most_a_row(ranks, more, groups):
    """As accelerate distributes them: slice after slice to rank after rank."""
    size = max(2, ranks + more)
    plan = epoch_of(groups, size)
    batches = PlannedBatches([], plan, ranks)
    assert len(batches) == len(plan) * ranks
    slices = [list(BatchSamplerShard(batches, ranks, rank, even_batches=False)) for rank in range(ranks)]
    assert {len(rows) for of_rank in slices for rows in of_rank} <= {size // ranks, -(-size // ranks)}
    assert [list(chain(*of_step)) for of_step in zip(*slices, strict=True)] == plan.tolist()


def test_the_plan_is_a_pure_function_and_changes_with_seed_and_epoch():
    groups = np.arange(2000).reshape(-1, 2)
    plans = [epoch_of(groups, 8, seed, epoch).tolist() for seed, epoch in ((1, 0), (1, 0), (2, 0), (1, 1))]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert plans[0] != plans[3]


def test_a_plan_is_the_same_on_every_machine():
    """Each node plans for itself: no order may depend on a processor's way of sorting."""
    groups = np.stack([10**6 + zipf(5000, 2.0, 1), zipf(5000)], axis=1)
    plan = epoch_of(groups, 16, seed=42, epoch=3)
    assert (plan.shape, data_order_digest(plan)) == ((312, 16), "98a0ce733747e353")


def test_a_plan_of_two_sources_is_the_same_on_every_machine():
    groups = np.stack([10**6 + zipf(5000, 2.0, 1), zipf(5000)], axis=1)
    plan = plan_of(groups, 16, SourceShare(2000), SourceShare(3000, 2.0), epochs=2, max_steps=400)
    assert (plan.shape, data_order_digest(plan)) == ((400, 16), "5b9da346fdf06e20")


def test_rows_left_out_change_with_the_epoch():
    groups = np.arange(94).reshape(-1, 2)
    used = [set(epoch_of(groups, 4, epoch=epoch).ravel().tolist()) for epoch in range(4)]
    assert all(len(rows) == 44 for rows in used)
    assert len(set.union(*used)) > 44


def test_a_run_is_its_epochs_in_order_cut_at_max_steps():
    groups = np.arange(80).reshape(-1, 2)
    plan = plan_of(groups, 8, SourceShare(40), epochs=3)
    assert plan.tolist() == np.concatenate([epoch_of(groups, 8, epoch=epoch) for epoch in range(3)]).tolist()
    assert plan_of(groups, 8, SourceShare(40), epochs=3, max_steps=7).tolist() == plan[:7].tolist()


def test_sixty_four_rows_of_sixteen_positives_fill_every_batch_without_a_collision():
    """The library's no-duplicates sampler had the same positive on both of two ranks in 17 of 24 steps here."""
    groups = distinct_anchors(np.arange(64) % 16)
    for epoch in range(3):
        plan = epoch_of(groups, 8, 42, epoch)
        assert len(plan) == 8
        assert all(len(np.unique(groups[batch, 1])) == 8 for batch in plan)


TWO_SOURCES = np.arange(600).reshape(-1, 2)


def batches_of_sources(plan, rows=(200, 100)):
    sources = np.searchsorted(np.cumsum(rows), plan, side="right")
    assert (sources == sources[:, :1]).all(), "a batch is of one source"
    return Counter(sources[:, 0].tolist())


def test_a_batch_is_of_one_source_and_sources_contribute_by_size():
    plan = plan_of(TWO_SOURCES, 10, SourceShare(200), SourceShare(100))
    assert batches_of_sources(plan) == {0: 20, 1: 10}
    first_of_second = next(step for step, batch in enumerate(plan) if batch[0] >= 200)
    assert first_of_second < 15, "the sources are mixed"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1.0, 1.0), {0: 10, 1: 10}),
        ((4.0, 1.0), {0: 20, 1: 5}),
        ((None, 0.25), {0: 20, 1: 5}),
        ((1.0, 3.0), {0: 3, 1: 10}),
        ((39.4, 19.7), {0: 20, 1: 10}),  # 20 / 39.4 * 39.4 is less than 20
    ],
)
def test_with_weights_batches_are_in_their_proportion(weights, expected):
    plan = plan_of(TWO_SOURCES, 10, SourceShare(200, weights[0]), SourceShare(100, weights[1]))
    assert batches_of_sources(plan) == expected


def test_the_same_text_in_two_sources_does_not_matter():
    """Batches are of one source, so the sources are planned independently."""
    groups = np.concatenate([np.arange(80).reshape(-1, 2)] * 2)
    assert false_negatives_in(groups, plan_of(groups, 8, SourceShare(40), SourceShare(40))) == 0


def false_negatives_one_by_one(groups, batch):
    return sum(
        row != other and bool(groups[row, 0] == groups[other, 0] or groups[row, 1] == groups[other, 1])
        for row in batch
        for other in batch
    )


@given(groups=BIPARTITE, seed=st.integers(0, 9))
def test_false_negatives_of_a_plan_are_those_counted_pair_by_pair(groups, seed):
    plan = epoch_of(groups, 4, seed)
    expected = np.mean([false_negatives_one_by_one(groups, batch) for batch in plan]) if len(plan) else 0
    assert false_negatives_in(groups, plan) == pytest.approx(expected)


def test_the_expected_false_negatives_of_a_random_batch_are_its_mean():
    groups = np.stack([np.arange(2000) // 2, 10**6 + zipf(2000, 2.0)], axis=1)
    rng = np.random.default_rng(0)
    random_batches = np.concatenate([rng.permutation(2000).reshape(-1, 50) for _ in range(50)])
    assert false_negatives_at_random(groups, 50) == pytest.approx(false_negatives_in(groups, random_batches), rel=0.02)


def test_seventy_seven_positives_are_apart_in_batches_of_77_and_no_larger():
    groups = distinct_anchors(np.arange(77 * 130) % 77)
    assert largest_batch_without_duplicates(groups) == 77
    assert false_negatives_in(groups, epoch_of(groups, 77)) == 0
    assert false_negatives_in(groups, epoch_of(groups, 78)) > 0
