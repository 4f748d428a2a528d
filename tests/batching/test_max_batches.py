"""How many batches the data can fill: a bound that no plan can pass, on small data counted by trying everything."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.batching.max_batches import (
    largest_batch,
    largest_single_batch,
    max_batches,
    rank_among_equals,
    usable_rows,
)

KEYS = st.lists(st.tuples(st.integers(0, 5), st.integers(10, 15)), min_size=1, max_size=60).map(np.array)


def most_by_trying(keys, batch_size):
    """The most disjoint batches without a repeated group, by search over all of them."""
    best = 0

    def search(row, batches):
        nonlocal best
        best = max(best, sum(len(batch) == batch_size for batch in batches))
        if row == len(keys) or best == len(keys) // batch_size:
            return
        anchor, positive = keys[row]
        for index, batch in enumerate(batches):
            if len(batch) < batch_size and all(anchor != a and positive != p for a, p in batch):
                search(row + 1, [*batches[:index], [*batch, (anchor, positive)], *batches[index + 1 :]])
                if not batch:
                    break
        search(row + 1, batches)

    search(0, [[] for _ in range(len(keys) // batch_size)])
    return best


@given(keys=st.lists(st.tuples(st.integers(0, 3), st.integers(10, 13)), min_size=2, max_size=8), size=st.integers(2, 3))
def test_the_bound_is_what_trying_every_plan_finds(keys, size):
    keys = np.array(keys)
    assert max_batches(keys, size) == most_by_trying(keys.tolist(), size)


@given(keys=KEYS)
def test_a_single_batch_is_as_large_as_the_rows_that_one_batch_can_use(keys):
    assert largest_single_batch(keys) == len(usable_rows(keys, 1))


@given(keys=KEYS, limit=st.integers(1, 12))
def test_usable_rows_respect_the_limit_and_no_row_could_be_added(keys, limit):
    rows = usable_rows(keys, limit)
    counts = [np.bincount(keys[rows, side], minlength=20) for side in (0, 1)]
    assert max(count.max(initial=0) for count in counts) <= limit
    for row in set(range(len(keys))) - set(rows.tolist()):
        assert any(counts[side][keys[row, side]] == limit for side in (0, 1))


def test_a_row_between_two_hubs_does_not_take_the_place_of_two():
    """Two batches: anchor 0 and positive 10 are hubs; their common row would cost both a place."""
    keys = np.array([(0, 10), (0, 11), (0, 12), (1, 10), (2, 10)])
    assert usable_rows(keys, 2).tolist() == [1, 2, 3, 4]


def test_seventy_seven_positives_fill_batches_of_64_and_none_of_128():
    keys = np.stack([1000 + np.arange(10_000), np.arange(10_000) % 77], axis=1)
    assert max_batches(keys, 64) == 156
    assert max_batches(keys, 77) == 129
    assert max_batches(keys, 128) == 0
    assert largest_batch(keys, 0.98) == 77


@given(values=st.lists(st.integers(0, 5)).map(lambda some: np.array(some, dtype=np.int64)))
def test_ranks_count_the_equal_values_before(values):
    expected = [values[:index].tolist().count(value) for index, value in enumerate(values.tolist())]
    assert rank_among_equals(values).tolist() == expected


@pytest.mark.parametrize("anchors", [1, 3])
def test_the_bound_of_skewed_positives_is_that_of_counting_each_at_most_once_a_batch(anchors):
    """With positives as the only hubs: the largest T with sum(min(count, T)) >= 64 T."""
    rng = np.random.default_rng(0)
    positives = np.unique(rng.zipf(1.3, 100_000), return_inverse=True)[1]
    counts = np.bincount(positives)
    expected = max(t for t in range(1, 100_000 // 64 + 1) if np.minimum(counts, t).sum() >= 64 * t)
    began = time.process_time()
    assert max_batches(np.stack([10**6 + np.arange(100_000) // anchors, positives], axis=1), 64) == expected
    assert time.process_time() - began < 1
