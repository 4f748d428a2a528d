"""The global batch plan: no group twice in a batch, no row twice in an epoch, as many rows as any plan could use."""

import time
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st

from mnrl_job.batching.max_batches import max_batches
from mnrl_job.batching.planning import (
    PlanConfig,
    SourceShare,
    batches_by_source,
    false_negatives_at_random,
    false_negatives_in,
    plan_epoch,
    plan_epochs,
)
from mnrl_job.training.data_order_digest import data_order_digest
from mnrl_job.training.sampler import PlannedBatches

# Anchors and positives overlap: a text may be an anchor here and a positive there.
GROUPS = st.lists(st.tuples(st.integers(0, 40), st.integers(20, 60)), min_size=2, max_size=150).map(np.array)
APART = st.lists(st.tuples(st.integers(0, 12), st.integers(20, 32)), min_size=2, max_size=150).map(np.array)


def epoch_of(groups, batch_size, seed=1, epoch=0, **rule):
    one = PlanConfig(batch_size, (SourceShare(len(groups)),), **rule)
    return plan_epoch(groups, one, batches_by_source(groups, one), seed, epoch)


def run_of(groups, rule, epochs=1, max_steps=None):
    return np.concatenate(plan_epochs(groups, rule, batches_by_source(groups, rule), 1, epochs, max_steps))


def zipf(rows, exponent=1.3, seed=0):
    return np.unique(np.random.default_rng(seed).zipf(exponent, rows), return_inverse=True)[1]


def assert_apart(groups, plan):
    for batch in plan:
        counts = Counter(group for row in batch for group in set(groups[row].tolist()))
        assert max(counts.values()) == 1


@settings(max_examples=300)
@given(groups=GROUPS, batch_size=st.integers(2, 16), seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_no_batch_holds_a_group_twice_and_no_epoch_a_row_twice(groups, batch_size, seed, epoch):
    plan = epoch_of(groups, batch_size, seed, epoch)
    assert plan.shape[1] == batch_size
    assert len(np.unique(plan)) == plan.size
    assert_apart(groups, plan)


@settings(max_examples=300)
@given(groups=APART, batch_size=st.integers(2, 12), seed=st.integers(0, 9))
def test_no_plan_could_use_more_rows(groups, batch_size, seed):
    """Where no text is an anchor here and a positive there, the bound is met exactly."""
    assert len(epoch_of(groups, batch_size, seed)) == max_batches(groups, batch_size)


@given(ranks=st.integers(1, 8), more=st.integers(0, 20), groups=GROUPS)
def test_what_the_ranks_are_dealt_in_a_step_is_one_global_batch_in_shares_that_differ_by_a_row(ranks, more, groups):
    """As accelerate deals them: slice after slice to rank after rank."""
    size = max(2, ranks + more)
    plan = epoch_of(groups, size)
    batches = PlannedBatches([], plan, ranks)
    assert len(batches) == len(plan) * ranks
    dealt = [list(BatchSamplerShard(batches, ranks, rank, even_batches=False)) for rank in range(ranks)]
    assert {len(share) for shares in dealt for share in shares} <= {size // ranks, -(-size // ranks)}
    steps = [list(chain(*shares)) for shares in zip(*dealt, strict=True)]
    assert steps == plan.tolist()
    assert_apart(groups, np.array(steps, dtype=np.int64).reshape(-1, size))


@given(count=st.integers(2, 100), batch_size=st.integers(2, 16))
def test_without_duplicates_only_an_incomplete_batch_is_dropped(count, batch_size):
    assert len(epoch_of(np.arange(2 * count).reshape(count, 2), batch_size)) == count // batch_size


def test_the_plan_is_a_pure_function_and_changes_with_seed_and_epoch():
    groups = np.arange(2000).reshape(-1, 2)
    again = [epoch_of(groups, 8, seed, epoch).tolist() for seed, epoch in ((1, 0), (1, 0), (2, 0), (1, 1))]
    assert again[0] == again[1]
    assert again[0] != again[2]
    assert again[0] != again[3]


def test_a_plan_is_the_same_on_every_machine():
    """Nodes lay out the plan each for itself: no order may depend on a processor's way of sorting."""
    groups = np.stack([10**6 + zipf(5000, 2.0, 1), zipf(5000)], axis=1)
    plan = epoch_of(groups, 16, seed=42, epoch=3)
    assert (plan.shape, data_order_digest(plan)) == ((33, 16), "c9deb96bd8d1ceb9")


def test_rows_left_out_change_with_the_epoch():
    groups = np.stack([np.arange(100), 1000 + np.arange(100) // 50], axis=1)  # two positives of fifty rows each
    used = [set(epoch_of(groups, 2, epoch=epoch).ravel().tolist()) for epoch in range(2)]
    assert all(len(rows) == 100 for rows in used)
    scarce = np.stack([np.arange(90), 1000 + np.minimum(np.arange(90), 30)], axis=1)  # one positive of sixty rows
    used = [set(epoch_of(scarce, 4, epoch=epoch).ravel().tolist()) for epoch in range(4)]
    assert len(set.union(*used)) > len(used[0])


def test_a_run_is_its_epochs_in_order_cut_at_max_steps():
    groups = np.arange(80).reshape(-1, 2)
    rule = PlanConfig(8, (SourceShare(40),))
    run = run_of(groups, rule, epochs=3)
    assert run.tolist() == np.concatenate([epoch_of(groups, 8, epoch=epoch) for epoch in range(3)]).tolist()
    assert run_of(groups, rule, epochs=3, max_steps=7).tolist() == run[:7].tolist()


def test_sixty_four_rows_of_sixteen_positives_fill_every_batch_without_a_collision():
    """The library's no-duplicates sampler had the same positive on both of two ranks in 17 of 24 steps here."""
    groups = np.stack([np.arange(64), 1000 + np.arange(64) % 16], axis=1)
    for epoch in range(3):
        plan = epoch_of(groups, 8, 42, epoch)
        assert len(plan) == 8
        assert all(len(np.unique(groups[batch, 1])) == 8 for batch in plan)


SKEWED = {
    "positives": np.stack([10**6 + np.arange(100_000), zipf(100_000)], axis=1),
    "positives, five rows an anchor": np.stack([10**6 + np.arange(100_000) // 5, zipf(100_000)], axis=1),
    "anchors and positives": np.stack([10**6 + zipf(100_000, seed=1), zipf(100_000)], axis=1),
    "anchors and positives, strongly": np.stack([10**6 + zipf(100_000, 2.0, 1), zipf(100_000, 1.5)], axis=1),
}


@pytest.mark.parametrize("case", SKEWED)
def test_skewed_groups_are_planned_in_under_a_second_and_use_nearly_all_that_any_plan_could(case):
    groups = SKEWED[case]
    bound = max_batches(groups, 64)
    began = time.process_time()
    plan = epoch_of(groups, 64)
    assert time.process_time() - began < 1
    assert bound > 0
    assert len(plan) >= 0.98 * bound
    for side in (0, 1):
        sorted_groups = np.sort(groups[plan][:, :, side], axis=1)
        assert (np.diff(sorted_groups, axis=1) > 0).all()


def test_a_million_rows_are_planned_in_the_time_of_a_few_sorts():
    """Eight to ten of both columns; on most machines a second or two."""
    rng = np.random.default_rng(0)
    anchors, positives = rng.integers(0, 300_000, (2, 1_000_000))
    groups = np.stack([anchors, 300_000 + positives], axis=1)
    planned = min(seconds_of(lambda: epoch_of(groups, 64)) for _ in range(2))
    sorted_ = min(seconds_of(lambda: np.argsort(groups, axis=0, kind="stable")) for _ in range(2))
    assert planned < 20 * sorted_
    assert len(epoch_of(groups, 64)) == 1_000_000 // 64


def seconds_of(work):
    began = time.process_time()
    work()
    return time.process_time() - began


TWO = np.arange(600).reshape(-1, 2)


def source_of(plan, rows=(200, 100)):
    starts = np.cumsum(rows)
    sources = np.searchsorted(starts, plan, side="right")
    assert (sources == sources[:, :1]).all(), "a batch is of one source"
    return Counter(sources[:, 0].tolist())


def test_a_batch_is_of_one_source_and_sources_take_part_by_size():
    rule = PlanConfig(10, (SourceShare(200), SourceShare(100)))
    plan = run_of(TWO, rule)
    assert source_of(plan) == {0: 20, 1: 10}
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
def test_with_weights_batches_stand_in_their_proportion(weights, expected):
    rule = PlanConfig(10, (SourceShare(200, weights[0]), SourceShare(100, weights[1])))
    assert source_of(run_of(TWO, rule)) == expected


def test_sources_do_not_keep_each_others_duplicates_apart():
    """Batches are of one source, so a text of both sources costs neither a row."""
    groups = np.concatenate([np.arange(80).reshape(-1, 2)] * 2)
    assert len(run_of(groups, PlanConfig(8, (SourceShare(40), SourceShare(40))))) == 10


def test_a_masked_plan_uses_every_row_whatever_repeats():
    groups = np.stack([np.arange(640), 1000 + np.arange(640) % 3], axis=1)
    assert len(epoch_of(groups, 64)) == 0
    plan = epoch_of(groups, 64, masked=True)
    assert sorted(plan.ravel().tolist()) == list(range(640))
    assert epoch_of(groups, 64, epoch=1, masked=True).tolist() != plan.tolist()


def false_negatives_one_by_one(groups, batch):
    return sum(
        one != other and bool(set(groups[one].tolist()) & set(groups[other].tolist()))
        for one in batch
        for other in batch
    )


@given(groups=APART, seed=st.integers(0, 9))
def test_false_negatives_of_a_plan_are_those_one_counts_pair_by_pair(groups, seed):
    plan = epoch_of(groups, 2, seed, masked=True)
    expected = np.mean([false_negatives_one_by_one(groups, batch) for batch in plan]) if len(plan) else 0
    assert false_negatives_in(groups, plan) == pytest.approx(expected)
    assert false_negatives_in(groups, epoch_of(groups, 2, seed)) == 0


def test_the_expected_false_negatives_of_a_random_batch_are_its_mean():
    groups = np.stack([np.arange(2000) // 2, 10**6 + zipf(2000, 2.0)], axis=1)
    drawn = np.concatenate([epoch_of(groups, 50, epoch=epoch, masked=True) for epoch in range(50)])
    assert false_negatives_at_random(groups, 50) == pytest.approx(false_negatives_in(groups, drawn), rel=0.02)
