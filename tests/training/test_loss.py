"""Our loss is the library's, value and gradients, whatever the order of embedding; and leaves out false negatives."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.runtime.tables import NOBODY
from mnrl_job.training.loss import GlobalBatchLoss, false_negatives
from tests.conftest import PAIRS, run_ranks

NEGATIVES = [positive + " not at all" for _, positive in PAIRS]
COLUMNS = [*([list(column) for column in zip(*PAIRS, strict=True)]), NEGATIVES]


@pytest.fixture
def model(tiny_model):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model), device="cpu").double()


def labels_of(groups):
    """The label of each row: its number, and its groups."""
    return torch.tensor([[row, *one] for row, one in enumerate(groups)])


def apart(columns):
    """Every text is a group of its own."""
    rows = len(columns[0])
    return labels_of(torch.arange(rows * len(columns)).reshape(rows, -1).tolist())


def value_and_gradients(model, loss, columns, labels):
    model.zero_grad()
    value = loss([model.preprocess(list(column)) for column in columns], labels)
    value.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return value.item(), {name: gradient.clone() for name, gradient in gradients.items()}


@pytest.mark.parametrize("rows_at_once", [None, 1, 3, 8])
@pytest.mark.parametrize("with_negatives", [False, True])
def test_value_and_gradients_equal_the_librarys(model, rows_at_once, with_negatives):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    columns = COLUMNS if with_negatives else COLUMNS[:2]
    theirs, their_gradients = value_and_gradients(model, MultipleNegativesRankingLoss(model, scale=20), columns, None)
    loss = GlobalBatchLoss(model, 20, ranks=1, rows_at_once=rows_at_once)
    ours, our_gradients = value_and_gradients(model, loss, columns, apart(columns))
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert int(loss.masked) == 0
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-9, atol=1e-12)


def test_on_two_ranks_value_and_gradients_equal_the_librarys(tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "columns.json").write_text(json.dumps(COLUMNS), encoding="utf-8")
    (tmp_path / "labels.json").write_text(json.dumps(apart(COLUMNS).tolist()), encoding="utf-8")
    found = json.loads(run_ranks(2, "tests.training.ranks", "loss", tmp_path))
    assert found["ours"]["value"] == pytest.approx(found["theirs"]["value"], abs=1e-12)
    assert found["ours"]["gradients"] == pytest.approx(found["theirs"]["gradients"], rel=1e-9, abs=1e-12)


def test_two_ranks_mask_what_one_would(tmp_path, tiny_model, model):
    """Rows 0 and 4 share a positive, 1 and 5 an anchor: each pair meets across the ranks only."""
    groups = torch.arange(24).reshape(8, 3)
    groups[4, 1], groups[5, 0] = groups[0, 1], groups[1, 0]
    labels = labels_of(groups.tolist())
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "columns.json").write_text(json.dumps(COLUMNS), encoding="utf-8")
    (tmp_path / "labels.json").write_text(json.dumps(labels.tolist()), encoding="utf-8")
    found = json.loads(run_ranks(2, "tests.training.ranks", "loss", tmp_path))
    loss = GlobalBatchLoss(model, 20, ranks=1, rows_at_once=None)
    value, gradients = value_and_gradients(model, loss, COLUMNS, labels)
    assert int(loss.masked) == 4
    assert found["ours"]["value"] == pytest.approx(value, abs=1e-12)
    flat = torch.cat([gradient.ravel() for gradient in gradients.values()]).tolist()
    assert found["ours"]["gradients"] == pytest.approx(flat, rel=1e-9, abs=1e-12)


def test_a_false_negative_is_left_out_of_the_softmax(model):
    labels = apart(COLUMNS[:2])
    labels[7, 1] = labels[0, 1]  # one anchor with two positives
    loss = GlobalBatchLoss(model, 20, ranks=1, rows_at_once=None)
    value, _ = value_and_gradients(model, loss, COLUMNS[:2], labels)
    queries, documents = (model(model.preprocess(column))["sentence_embedding"] for column in COLUMNS[:2])
    scores = 20 * torch.nn.functional.cosine_similarity(queries[:, None], documents[None], dim=2)
    scores[0, 7] = scores[7, 0] = -torch.inf
    assert value == pytest.approx(torch.nn.functional.cross_entropy(scores, torch.arange(8)).item(), abs=1e-12)


def test_a_batch_of_one_positive_alone_teaches_nothing_and_breaks_nothing(model):
    columns = [COLUMNS[0], [COLUMNS[1][0]] * 8]
    labels = labels_of([[row, 100] for row in range(8)])
    loss = GlobalBatchLoss(model, 20, ranks=1, rows_at_once=None)
    value, gradients = value_and_gradients(model, loss, columns, labels)
    assert value == pytest.approx(0, abs=1e-12)
    assert all(torch.isfinite(gradient).all() and gradient.abs().max() < 1e-12 for gradient in gradients.values())


GROUPS = st.integers(0, 6)
ROWS = st.lists(st.tuples(GROUPS, GROUPS, st.one_of(GROUPS, st.just(NOBODY))), min_size=1, max_size=8)


def is_false(rows, query, row, column):
    """Whether a document must not count against a query, said in words rather than in tensors."""
    anchor, positive, _ = rows[query]
    document = rows[row][column]
    same_anchor = rows[row][0] == anchor
    if column == 1:
        return row != query and (document in (anchor, positive) or same_anchor)
    return document == NOBODY or (document in (anchor, positive) and not same_anchor)


@given(rows=ROWS, start=st.integers(0, 7))
def test_false_negatives_are_those_of_the_own_group_and_nobodys(rows, start):
    labels = labels_of(rows)
    start = min(start, len(rows) - 1)
    marked = false_negatives(labels[start:], labels).tolist()
    for query, found in enumerate(marked, start=start):
        expected = [is_false(rows, query, row, column) for column in (1, 2) for row in range(len(rows))]
        assert found == expected


def test_a_hard_negative_counts_for_its_own_anchor_however_it_is_worded_but_not_for_the_anchor_it_answers():
    rows = [(0, 10, 20), (1, 11, 11), (2, 12, 10), (0, 13, 21)]
    marked = false_negatives(labels_of(rows), labels_of(rows))[:, 4:]
    assert marked.tolist() == [
        [False, False, True, False],  # row 2's negative is row 0's positive
        [False, False, False, False],  # its own negative is of its positive's group
        [False, False, False, False],
        [False, False, False, False],  # of the same anchor as row 0, whose negative stays one
    ]


def test_what_was_trained_on_and_masked_is_counted(model):
    labels = labels_of([[row, 100 + row % 4] for row in range(8)])
    loss = GlobalBatchLoss(model, 20, ranks=1, rows_at_once=4)
    loss([model.preprocess(column) for column in COLUMNS[:2]], labels)
    assert [rows.tolist() for rows in loss.consumed] == [list(range(8))]
    assert int(loss.masked) == 8


def test_length_order_reads_less_padding_and_counts_it(model):
    padded = {}
    for rows_at_once in (None, 2):
        loss = GlobalBatchLoss(model, 20, ranks=1, rows_at_once=rows_at_once)
        loss([model.preprocess(column) for column in COLUMNS[:2]], apart(COLUMNS[:2]))
        padded[rows_at_once] = (loss.tokens, loss.padded_tokens)
    assert padded[None][0] == padded[2][0] <= padded[2][1] < padded[None][1]
