"""The global batch plan: no text twice in a batch, no row twice in an epoch, the same for all who ask."""

import time
from collections import Counter
from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.training.batches import plan_epoch, plan_run
from mnrl_job.training.sampler import PlannedBatches

IDS = st.lists(st.tuples(st.integers(0, 40), st.integers(20, 60)), min_size=2, max_size=150).map(np.array)


@given(ids=IDS, batch_size=st.integers(2, 16), seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_no_batch_holds_a_text_twice_and_no_epoch_a_row_twice(ids, batch_size, seed, epoch):
    plan = plan_epoch(ids, batch_size, seed, epoch)
    assert plan.shape[1] == batch_size
    assert len(np.unique(plan)) == plan.size
    for batch in plan:
        texts = Counter(text for row in batch for text in set(ids[row].tolist()))
        assert max(texts.values()) == 1


@given(count=st.integers(2, 100), batch_size=st.integers(2, 16))
def test_without_duplicates_only_an_incomplete_batch_is_dropped(count, batch_size):
    ids = np.arange(2 * count).reshape(count, 2)
    assert len(plan_epoch(ids, batch_size, 1, 0)) == count // batch_size


def test_the_plan_is_a_pure_function_and_changes_with_seed_and_epoch():
    ids = np.arange(2000).reshape(-1, 2)
    again = [plan_epoch(ids, 8, seed, epoch).tolist() for seed, epoch in ((1, 0), (1, 0), (2, 0), (1, 1))]
    assert again[0] == again[1]
    assert again[0] != again[2]
    assert again[0] != again[3]


def test_a_run_is_its_epochs_in_order_cut_at_max_steps():
    ids = np.arange(80).reshape(-1, 2)
    run = plan_run(ids, 8, 1, epochs=3, max_steps=None)
    assert run.tolist() == np.concatenate([plan_epoch(ids, 8, 1, epoch) for epoch in range(3)]).tolist()
    assert plan_run(ids, 8, 1, epochs=3, max_steps=7).tolist() == run[:7].tolist()


@given(ranks=st.sampled_from([1, 2, 4, 8]))
def test_the_ranks_slices_make_up_the_global_batches(ranks):
    """Accelerate deals slice after slice to rank after rank."""
    plan = plan_epoch(np.arange(160).reshape(-1, 2), 16, 1, 0)
    slices = list(PlannedBatches([], plan, ranks))
    assert len(slices) == len(plan) * ranks
    assert all(len(part) == 16 // ranks for part in slices)
    steps = [list(chain(*slices[step * ranks : (step + 1) * ranks])) for step in range(len(plan))]
    assert steps == plan.tolist()


def test_sixty_four_rows_of_sixteen_positives_never_collide_on_two_ranks():
    """The library's no-duplicates sampler had the same positive on both ranks in 17 of 24 steps here."""
    ids = np.stack([np.arange(64), 1000 + np.arange(64) % 16], axis=1)
    for epoch in range(3):
        plan = plan_epoch(ids, 8, 42, epoch)
        assert len(plan) >= 7
        assert all(len(np.unique(ids[batch, 1])) == 8 for batch in plan)


def test_skewed_positives_are_planned_in_seconds_and_fill_most_batches():
    rng = np.random.default_rng(0)
    positives = rng.zipf(1.3, 100_000) % 2**40
    ids = np.stack([2**41 + np.arange(100_000), positives], axis=1)
    counts = np.unique(positives, return_counts=True)[1]
    bound = max(t for t in range(1, 100_000 // 64 + 1) if np.minimum(counts, t).sum() >= 64 * t)
    began = time.perf_counter()
    plan = plan_epoch(ids, 64, 1, 0)
    assert time.perf_counter() - began < 10
    assert len(plan) >= 0.8 * bound
