"""Rows of Arrow columns of any size."""

from itertools import pairwise

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.data.tables import take


@given(
    sizes=st.lists(st.integers(0, 4), max_size=5),
    picked=st.lists(st.integers(0, 1_000), max_size=12),
)
def test_rows_are_taken_in_the_given_order_from_all_chunks(sizes, picked):
    starts = np.cumsum([0, *sizes]).tolist()
    pieces = [pa.array(map(str, range(start, stop)), pa.string()) for start, stop in pairwise(starts)]
    rows = [row % starts[-1] for row in picked] if starts[-1] else []
    taken = take(pa.chunked_array(pieces, pa.string()), np.array(rows, dtype=np.int64))
    assert taken.to_pylist() == [str(row) for row in rows]


def test_rows_are_taken_from_more_text_than_arrow_can_concatenate(huge):
    column, last = huge["anchor"], huge.num_rows - 1
    rows = np.array([last, 0, 401, last])
    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):
        column.take(rows)
    before = psutil.Process().memory_info().rss
    assert [text[:4] for text in take(column, rows).to_pylist()] == ["0399", "0000", "0001", "0399"]
    assert psutil.Process().memory_info().rss - before < 2**28
