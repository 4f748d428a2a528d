"""Set operations equal those of NumPy, are faster, and release the GIL."""

import resource

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.data.integer_sets import distinct, distinct_dense, distinct_pairs, is_in

small = st.lists(st.integers(0, 9), max_size=30).map(lambda values: np.array(values, dtype=np.int64))
large = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30).map(lambda values: np.array(values, dtype=np.int64))


@given(small, large)
def test_results_equal_those_of_numpy(small_values, large_values):
    assert distinct_dense(small_values).tolist() == np.unique(small_values).tolist()
    assert distinct(large_values).tolist() == np.unique(large_values).tolist()
    others = np.concatenate([large_values[::3], large_values[1::3] ^ 1])
    assert is_in(large_values, others).tolist() == np.isin(large_values, others).tolist()
    pairs = np.stack([small_values, small_values[::-1]], axis=1)
    assert distinct_pairs(pairs).tolist() == np.unique(pairs, axis=0).tolist()


def cpu_seconds(work):
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_set_operations_take_a_fraction_of_the_time_of_numpy():
    numbers = np.random.default_rng(1).integers(0, 500_000, (500_000, 2))
    assert cpu_seconds(lambda: distinct_pairs(numbers)) < cpu_seconds(lambda: np.unique(numbers, axis=0)) / 2
    assert cpu_seconds(lambda: distinct_dense(numbers)) < cpu_seconds(lambda: np.unique(numbers)) / 5
    assert cpu_seconds(lambda: distinct(numbers)) < cpu_seconds(lambda: np.unique(numbers)) / 2
