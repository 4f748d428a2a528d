"""Ranks share rows: each row has one rank, and no rank has much more to do than another."""

from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.embedding.rank_slice import rank_slice


@given(count=st.integers(0, 300), ranks=st.integers(1, 20))
def test_slices_follow_one_another_and_differ_by_one_row_at_most(count, ranks):
    slices = [rank_slice(count, rank, ranks) for rank in range(ranks)]
    assert [row for own in slices for row in range(own.start, own.stop)] == list(range(count))
    sizes = {own.stop - own.start for own in slices}
    assert sizes <= {count // ranks, -(-count // ranks)}, "so each has a row where there are as many"
