"""Counting among many numbers: as NumPy's own answers, sooner, and without keeping other threads waiting."""

import resource

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.data.integer_sets import are_among, distinct, distinct_pairs, used

small = st.lists(st.integers(0, 9), max_size=30).map(lambda some: np.array(some, dtype=np.int64))
large = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30).map(lambda some: np.array(some, dtype=np.int64))


@given(small, large)
def test_the_answers_are_those_of_numpy(few, many):
    assert used(few).tolist() == np.unique(few).tolist()
    assert distinct(many).tolist() == np.unique(many).tolist()
    others = np.concatenate([many[::3], many[1::3] ^ 1])
    assert are_among(many, others).tolist() == np.isin(many, others).tolist()
    pairs = np.stack([few, few[::-1]], axis=1)
    assert distinct_pairs(pairs).tolist() == np.unique(pairs, axis=0).tolist()


def cpu_seconds(work):
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_they_take_a_fraction_of_the_time_that_numpy_takes():
    numbers = np.random.default_rng(1).integers(0, 500_000, (500_000, 2))
    assert cpu_seconds(lambda: distinct_pairs(numbers)) < cpu_seconds(lambda: np.unique(numbers, axis=0)) / 2
    assert cpu_seconds(lambda: used(numbers)) < cpu_seconds(lambda: np.unique(numbers)) / 5
    assert cpu_seconds(lambda: distinct(numbers)) < cpu_seconds(lambda: np.unique(numbers)) / 2
