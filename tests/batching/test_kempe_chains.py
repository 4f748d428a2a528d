"""Placing rows along alternating paths, and evening out batches."""

import numpy as np
import pytest

from mnrl_job.batching.kempe_chains import NOWHERE, Chains


def chains_of(keys, batch, batches, size):
    keys, batch = np.array(keys), np.array(batch)
    fill = np.bincount(batch[batch != NOWHERE], minlength=batches)
    return Chains(keys, batch, fill, size), keys, batch, fill


def assert_apart(keys, batch):
    seats = [(one, group) for one, row in zip(batch.tolist(), keys.tolist(), strict=True) for group in row if one >= 0]
    assert len(set(seats)) == len(seats)


def test_a_row_that_fits_nowhere_is_placed_by_swapping_along_a_path():
    """Two batches: anchor 0 lacks batch 1 and positive 11 lacks batch 0, but no batch lacks both."""
    chains, keys, batch, fill = chains_of([(0, 10), (1, 11), (0, 11)], [0, 1, NOWHERE], 2, 2)
    chains.place([2])
    assert (batch >= 0).all()
    assert sorted(fill.tolist()) == [1, 2]
    assert_apart(keys, batch)


def test_a_row_whose_group_stands_in_every_batch_is_left_out():
    chains, keys, batch, fill = chains_of([(0, 10), (0, 11), (0, 12)], [0, 1, NOWHERE], 2, 2)
    chains.place([2])
    assert batch.tolist() == [0, 1, NOWHERE]
    assert fill.tolist() == [1, 1]
    assert_apart(keys, batch)


def test_three_rows_round_three_texts_need_three_batches():
    """Each text is an anchor here and a positive there: the path from one end of the row leads to its other end."""
    chains, keys, batch, _ = chains_of([(0, 1), (1, 2), (2, 0)], [NOWHERE, 0, 1], 2, 2)
    chains.place([0])
    assert batch.tolist() == [NOWHERE, 0, 1]
    assert_apart(keys, batch)


@pytest.mark.timeout(20)
def test_a_batch_that_is_too_full_is_relieved_also_where_rows_lie_in_a_circle():
    """Rows 0 to 3 go round between two batches for ever; rows 4 and 5 can move, but their groups are larger."""
    circle = [(0, 10), (0, 11), (1, 11), (1, 10)]
    movable = [(2, 12), (3, 13)]
    elsewhere = [(group, 14 + row) for row, group in enumerate((2, 2, 3, 3))]
    chains, keys, batch, fill = chains_of([*circle, *movable, *elsewhere], [0, 1, 0, 1, 0, 0, *[NOWHERE] * 4], 2, 3)
    assert fill.tolist() == [4, 2]
    chains.place([])
    assert fill.tolist() == [3, 3]
    assert_apart(keys, batch)
