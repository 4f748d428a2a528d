"""All positives that the data gives an anchor are masked, whether or not their rows are in the batch."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.data.ragged import no_values
from mnrl_job.training.collator import row_labels
from mnrl_job.training.known_positives import find_known_positives
from mnrl_job.training.losses.false_negatives import contains, false_negatives
from mnrl_job.training.row_texts import RowTexts

GROUPS = st.lists(st.tuples(st.integers(0, 6), st.integers(4, 12)), min_size=1, max_size=20).map(np.array)
NUMBERS = st.lists(st.integers(-1, 6), max_size=8)


def test_a_positive_of_another_row_of_the_same_anchor_is_masked_when_that_row_is_not_in_the_batch():
    """The anchor 0 has positives 10 and 11; the batch holds its row with 10, and another anchor's row with 11."""
    groups = np.array([(0, 10), (0, 11), (1, 11)])
    row_texts = RowTexts(no_values(3), positives=find_known_positives(groups))
    batch = np.array([0, 2])
    labels = row_labels(np.column_stack([batch, groups[batch]]), row_texts)
    mask = false_negatives(labels["label"], labels["label"], labels["negatives"], labels["known_positives"])
    assert mask.tolist() == [[False, True], [False, False]]


@given(groups=GROUPS, data=st.data())
def test_the_pairs_of_some_anchors_are_all_of_those_with_several_positives(groups, data):
    asked = np.array(data.draw(st.lists(st.sampled_from(groups[:, 0].tolist()), min_size=1)))
    pairs = {tuple(pair) for pair in groups.tolist()}
    several = {anchor for anchor, _ in pairs if len({positive for other, positive in pairs if other == anchor}) > 1}
    known = find_known_positives(groups)
    assert (known is None) == (not several)
    if known:
        expected = sorted(pair for pair in pairs if pair[0] in several & set(asked.tolist()))
        assert sorted(map(tuple, known.pairs_of(asked).tolist())) == expected


@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12), firsts=NUMBERS, seconds=NUMBERS)
def test_contains_marks_the_combinations_that_are_among_the_pairs(pairs, firsts, seconds):
    marked = contains(
        torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2), torch.tensor(firsts), torch.tensor(seconds)
    )
    assert marked.tolist() == [[(first, second) in pairs for second in seconds] for first in firsts]
