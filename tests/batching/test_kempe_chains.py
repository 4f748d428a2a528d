"""Placement of rows along alternating paths, and batches made equal."""

import numpy as np
import pytest

from mnrl_job.batching.kempe_chains import UNASSIGNED, KempeChains


def chains_of(groups, batch, batches, size):
    groups, batch = np.array(groups), np.array(batch)
    fill = np.bincount(batch[batch != UNASSIGNED], minlength=batches)
    return KempeChains(groups, batch, fill, size), groups, batch, fill


def assert_apart(groups, batch):
    assigned = [
        (number, group)
        for number, row in zip(batch.tolist(), groups.tolist(), strict=True)
        for group in row
        if number != UNASSIGNED
    ]
    assert len(set(assigned)) == len(assigned)


def test_a_row_that_fits_nowhere_is_placed_by_swapping_along_a_path():
    """Two batches: anchor 0 lacks batch 1 and positive 11 lacks batch 0, but no batch lacks both."""
    chains, groups, batch, fill = chains_of([(0, 10), (1, 11), (0, 11)], [0, 1, UNASSIGNED], 2, 2)
    chains.place([2])
    assert (batch >= 0).all()
    assert sorted(fill.tolist()) == [1, 2]
    assert_apart(groups, batch)


def test_a_row_whose_group_is_in_every_batch_stays_unassigned():
    chains, groups, batch, fill = chains_of([(0, 10), (0, 11), (0, 12)], [0, 1, UNASSIGNED], 2, 2)
    chains.place([2])
    assert batch.tolist() == [0, 1, UNASSIGNED]
    assert fill.tolist() == [1, 1]
    assert_apart(groups, batch)


def test_three_rows_in_a_cycle_of_three_texts_need_three_batches():
    """Each text is both an anchor and a positive: the path from one end of the row leads to its other end."""
    chains, groups, batch, _ = chains_of([(0, 1), (1, 2), (2, 0)], [UNASSIGNED, 0, 1], 2, 2)
    chains.place([0])
    assert batch.tolist() == [UNASSIGNED, 0, 1]
    assert_apart(groups, batch)


@pytest.mark.timeout(20)
def test_a_batch_that_is_too_large_shrinks_even_where_rows_form_a_cycle():
    """Rows 0 to 3 alternate between two batches in a cycle; rows 4 and 5 can move, but their groups are larger."""
    cycle = [(0, 10), (0, 11), (1, 11), (1, 10)]
    movable = [(2, 12), (3, 13)]
    elsewhere = [(group, 14 + row) for row, group in enumerate((2, 2, 3, 3))]
    chains, groups, batch, fill = chains_of([*cycle, *movable, *elsewhere], [0, 1, 0, 1, 0, 0, *[UNASSIGNED] * 4], 2, 3)
    assert fill.tolist() == [4, 2]
    chains.place([])
    assert fill.tolist() == [3, 3]
    assert_apart(groups, batch)
