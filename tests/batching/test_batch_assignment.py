"""Rows of a group are spread over the batches: apart where that is possible, evenly where it is not."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnrl_job.batching.batch_assignment import group_sizes, rank_among_equals, split_large_groups
from mnrl_job.batching.planning import false_negatives_at_random, false_negatives_in, largest_batch_without_duplicates
from tests.batching.groups import BIPARTITE, MIXED, distinct_anchors, epoch_of, repeated_groups, zipf


@settings(max_examples=300)
@given(groups=MIXED, batch_size=st.integers(2, 16), seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_an_epoch_uses_every_row_once_except_an_incomplete_batch(groups, batch_size, seed, epoch):
    plan = epoch_of(groups, batch_size, seed, epoch)
    assert plan.shape == (len(groups) // batch_size, batch_size)
    assert len(np.unique(plan)) == plan.size


@settings(max_examples=300)
@given(groups=BIPARTITE, size=st.floats(0, 1), seed=st.integers(0, 9))
def test_no_batch_repeats_a_text_if_no_text_has_more_rows_than_there_are_batches(groups, size, seed):
    for batch in epoch_of(groups, max(1, round(size * largest_batch_without_duplicates(groups))), seed):
        assert not repeated_groups(groups, batch)


@pytest.mark.parametrize("texts", [(64, 64), (64, 640), (70, 300)])
def test_no_batch_repeats_a_text_even_if_every_batch_needs_every_text(texts):
    rng = np.random.default_rng(0)
    anchors, positives = (rng.permutation(np.arange(6400) % count) for count in texts)
    groups = np.stack([anchors, 1000 + positives], axis=1)
    assert false_negatives_in(groups, epoch_of(groups, 64)) == 0


@given(counts=st.lists(st.integers(1, 60), min_size=2, max_size=12), batch_size=st.integers(2, 12))
def test_rows_of_a_positive_are_spread_evenly_however_often_it_occurs(counts, batch_size):
    groups = distinct_anchors(np.repeat(np.arange(len(counts)), counts))
    plan = epoch_of(groups, batch_size)
    for positive in range(len(counts)):
        in_batches = (groups[plan, 1] == positive).sum(axis=1)
        assert in_batches.size == 0 or in_batches.max() - in_batches.min() <= 2


def test_a_positive_of_every_second_row_is_in_every_second_row_of_each_batch():
    rows = np.arange(640)
    groups = distinct_anchors(np.where(rows % 2, 640, rows))
    assert ((groups[epoch_of(groups, 64), 1] == 640).sum(axis=1) == 32).all()


@given(groups=MIXED, limit=st.integers(1, 10))
def test_large_groups_are_split_into_as_few_as_possible_and_others_stay(groups, limit):
    sizes, split = group_sizes(groups), split_large_groups(groups, limit)
    assert group_sizes(split).max() <= limit
    for group in np.unique(groups):
        parts = np.unique(split[groups == group])
        assert len(parts) == -(-sizes[group] // limit)
        assert sizes[group] > limit or parts.tolist() == [group]
    same = groups[:, 0] == groups[:, 1]
    assert np.array_equal(split[:, 0] == split[:, 1], same)


@given(values=st.lists(st.integers(-1, 5)).map(lambda values: np.array(values, dtype=np.int64)))
def test_ranks_count_the_equal_values_before(values):
    expected = [values[:index].tolist().count(value) for index, value in enumerate(values.tolist())]
    assert rank_among_equals(values).tolist() == expected


SKEWED = {
    "positives": distinct_anchors(zipf(100_000)),
    "positives, five rows an anchor": np.stack([10**6 + np.arange(100_000) // 5, zipf(100_000)], axis=1),
    "anchors and positives": np.stack([10**6 + zipf(100_000, seed=1), zipf(100_000)], axis=1),
    "anchors and positives, strongly": np.stack([10**6 + zipf(100_000, 2.0, 1), zipf(100_000, 1.5)], axis=1),
}


@pytest.mark.parametrize("case", SKEWED)
def test_skewed_groups_are_planned_in_under_a_second_and_share_batches_less_than_at_random(case):
    groups = SKEWED[case]
    started = time.process_time()
    plan = epoch_of(groups, 64)
    assert time.process_time() - started < 1
    assert plan.size == 100_000 // 64 * 64
    assert false_negatives_in(groups, plan) < false_negatives_at_random(groups, 64)
    for side in (0, 1):
        group, rows = Counter(groups[:, side].tolist()).most_common(1)[0]
        in_batches = (groups[plan, side] == group).sum(axis=1)
        share = rows / 100_000
        assert in_batches.std() < max(0.5, 0.6 * np.sqrt(64 * share * (1 - share))), "far less than in random batches"


def test_a_million_rows_are_planned_in_the_time_of_a_few_sorts():
    """Eight to ten of both columns; on most machines a second or two."""
    rng = np.random.default_rng(0)
    anchors, positives = rng.integers(0, 300_000, (2, 1_000_000))
    groups = np.stack([anchors, 300_000 + positives], axis=1)
    plan_seconds = min(seconds_of(lambda: epoch_of(groups, 64)) for _ in range(2))
    sort_seconds = min(seconds_of(lambda: np.argsort(groups, axis=0, kind="stable")) for _ in range(2))
    assert plan_seconds < 20 * sort_seconds
    assert false_negatives_in(groups, epoch_of(groups, 64)) == 0


def seconds_of(work):
    started = time.process_time()
    work()
    return time.process_time() - started
