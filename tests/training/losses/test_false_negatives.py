"""False negatives are masked in every direction, as in a reference with all scores at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.config.setting_types import Hardness
from mnrl_job.data.tables import NO_GROUP
from mnrl_job.training.losses.contrastive_loss import LossConfig, contrastive_loss
from tests.training.losses.embeddings import (
    DIRECTIONS,
    MODES,
    SCALE,
    batch_labels,
    embeddings,
    gradient,
    guides_of,
    labels_of,
    ours,
    set_tiles,
    sides_of,
)


def counts(direction, rows, known, one, row, column):
    """Whether a text of a row counts in the softmax of another row, said in words rather than in tensors.

    Args:
        direction: what is compared with what, as the library calls it.
        rows: groups of the texts of each row, the anchor first.
        known: pairs of an anchor and a positive of the data.
        one: row whose softmax it is.
        row: row of the other text.
        column: 0 for its anchor, 1 for its positive, 2 for its negative.
    """
    (anchor, positive, _), (other_anchor, other_positive, _) = rows[one], rows[row]
    text = rows[row][column]
    same_anchor = other_anchor == anchor
    relevant = {anchor, positive} | {document for query, document in known if query == anchor}
    if direction == "query_to_query":
        relevant_to_other = {document for query, document in known if query == other_anchor}
        return not (relevant & {other_anchor, other_positive} or relevant_to_other & {anchor, positive})
    if direction == "doc_to_query":
        return counts("query_to_doc", rows, known, row, one, 1)
    if direction in ("doc_to_doc", "pos_to_pos") and one == row:
        return False
    if column == 1:
        return one == row or not (text in relevant or same_anchor)
    return text != NO_GROUP and (text not in relevant or same_anchor)


def weighed(mode, one, row, column):
    """Whether hardness counts for a document of a row, in the softmax of another row."""
    hard = one == row and column > 1
    return {"in_batch_negatives": one != row, "hard_negatives": hard, "all_negatives": one != row or hard}[mode]


def dense(made, rows, objective, own, hardness, known):
    """The loss with all scores at once, and how many of them were left out from the queries to the documents."""
    sides = {"query": (made[0], [0]), "doc": (made[1:].flatten(0, 1), [1, 2]), "pos": (made[1], [1])}
    guides = {name: guides_of(2, len(rows))[numbers].flatten(0, 1) for name, (_, numbers) in sides.items()}
    scores, left_out = [], 0
    for direction in DIRECTIONS[objective]:
        left, right = direction.split("_to_")
        them, columns = sides[right]
        counted = torch.tensor(
            [
                [counts(direction, rows, known, one, row, column) for column in columns for row in range(len(rows))]
                for one in range(len(rows))
            ]
        )[own]
        if objective == "guided":
            limits = (guides["query"] * guides["pos"]).sum(dim=1)[own]
            near = guides[left][: len(rows)][own] @ guides[right].T > limits[:, None]
            positive = torch.eye(len(rows), len(them), dtype=torch.bool)[own] & (direction == "query_to_doc")
            counted = counted & (~near | positive)
        cosines = sides[left][0][: len(rows)][own] @ them.T
        found = SCALE * cosines
        if hardness and direction == "query_to_doc":
            chosen = [
                [weighed(hardness.mode, one, row, column) for column in columns for row in range(len(rows))]
                for one in range(len(rows))
            ]
            found = found + hardness.strength * cosines.detach() * torch.tensor(chosen)[own]
        scores.append(found.masked_fill(~counted, -torch.inf))
        left_out += (~counted).sum().item() if direction == "query_to_doc" else 0
    positive = SCALE * (made[0] * made[1]).sum(dim=1)[own]
    softmaxes = scores if objective == "symmetric" else [torch.cat(scores, dim=1)]
    partition = torch.stack([softmax.logsumexp(dim=1) for softmax in softmaxes]).mean(dim=0)
    return (partition - positive).mean(), left_out


GROUPS = st.integers(0, 6)
BATCHES = st.lists(st.tuples(GROUPS, GROUPS, st.one_of(GROUPS, st.just(NO_GROUP))), min_size=1, max_size=8)
HARDNESS = st.none() | st.builds(Hardness, st.sampled_from(MODES), st.just(9.0))


@pytest.mark.parametrize("objective", DIRECTIONS)
@given(
    rows=BATCHES,
    ends=st.tuples(st.integers(0, 7), st.integers(1, 8)),
    rows_at_once=st.integers(1, 8),
    hardness=HARDNESS,
    known=st.sets(st.tuples(GROUPS, GROUPS), max_size=12),
)
def test_false_negatives_are_left_out_in_every_direction(objective, rows, ends, rows_at_once, hardness, known):
    made, start = embeddings(2, len(rows)), min(ends[0], len(rows) - 1)
    own = slice(start, max(ends[1], start + 1))
    expected, left_out = dense(made, rows, objective, own, hardness, known)
    with pytest.MonkeyPatch.context() as patch:
        set_tiles(patch, rows_at_once, made)
        value, masked = ours(made, batch_labels(labels_of(rows), known), objective, own, hardness=hardness)
    assert masked.item() == left_out
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(value, made), gradient(expected, made), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("objective", DIRECTIONS)
@given(rows=BATCHES, rows_at_once=st.integers(1, 8), hardness=HARDNESS, seed=st.integers(0, 9))
def test_negatives_that_are_not_there_are_as_good_as_masked_ones(objective, rows, rows_at_once, hardness, seed):
    """Rows may differ in how many they have, and negatives may stand in any order."""
    made, labels, count = embeddings(2, len(rows)), labels_of(rows), len(rows)
    there = torch.nonzero(labels[count:, 2] != NO_GROUP)[:, 0]
    there = count + there[torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))]
    places = torch.cat([torch.arange(count), there])
    queries, documents = sides_of(made)
    guides = [*sides_of(guides_of(2, count))] if objective == "guided" else None
    config = LossConfig(SCALE, objective, hardness)
    expected, _ = contrastive_loss(queries, documents, batch_labels(labels), slice(None), config, guides)
    guides = (guides[0], guides[1][places]) if guides else None
    with pytest.MonkeyPatch.context() as patch:
        set_tiles(patch, rows_at_once, made)
        value, masked = contrastive_loss(
            queries, documents[places], batch_labels(labels[places]), slice(None), config, guides
        )
    assert masked.item() <= len(rows) * len(places)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(value, made), gradient(expected, made), rtol=1e-10, atol=1e-12)
