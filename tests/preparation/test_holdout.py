"""The eval set made from training pairs: nothing that is held out is also trained on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.errors import DataError
from mnrl_job.preparation.holdout import choose_rows, components, hold_out
from mnrl_job.records import Pairs
from mnrl_job.runtime.tables import read_table, write_columns

IDS = st.lists(st.tuples(st.integers(0, 30), st.integers(100, 130)), min_size=10, max_size=80).map(np.array)


def test_rows_hang_together_through_anchors_and_positives():
    ids = np.array([[1, 10], [1, 11], [2, 11], [3, 12], [4, 13]])
    groups = components(ids)
    assert groups[0] == groups[1] == groups[2]
    assert len(np.unique(groups)) == 3


@given(ids=IDS, share=st.floats(0.05, 0.6))
def test_no_text_stands_on_both_sides(ids, share):
    try:
        held = choose_rows(ids, share, seed=1)
    except DataError:
        return
    assert 0 < held.sum() <= share * len(ids)
    for column in (0, 1):
        assert not set(ids[held, column]) & set(ids[~held, column])


def test_the_held_out_rows_make_an_eval_set(tmp_path):
    count = 40
    path = tmp_path / "all.arrow"
    write_columns(path, anchor=[f"a{i}" for i in range(count)], positive=[f"p{i}" for i in range(count)])
    ids = np.stack([np.arange(count), 1000 + np.arange(count)], axis=1)
    pairs = Pairs(path, ("anchor", "positive"), count, count, {}, (), ())
    stays, stay_ids, held = hold_out(pairs, ids, 0.1, 1, tmp_path / "train.arrow")
    trained = set(read_table(stays.path)["anchor"].to_pylist())
    assert (stays.rows, len(stay_ids), len(held.queries), len(held.corpus)) == (36, 36, 4, 40)
    assert not trained & set(held.queries.values())
    assert all(held.queries[q][1:] == held.corpus[d][1:] for q, d in held.grades)


def test_one_big_group_cannot_be_held_out():
    with pytest.raises(DataError, match="MNRL_EVAL_HOLDOUT"):
        choose_rows(np.array([[1, i] for i in range(20)]), 0.1, seed=1)
