"""Our loss is the library's, value and gradients, whatever the order of embedding; and leaves out false negatives."""

import json
import math
import shutil
from typing import get_args

import pytest
import torch

from mnrl_job.training.losses.contrastive_loss import LossConfig, Objective
from mnrl_job.training.losses.mnrl import GlobalBatchLoss
from mnrl_job.training.losses.sub_chunks import split_chunk, split_to_count
from tests.examples import PAIRS
from tests.training.batches import batch_of, guide_of

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


def value_and_gradients(model, loss, columns, labels, rows_at_once=8, known=None):
    model.zero_grad()
    ours = isinstance(loss, GlobalBatchLoss)
    if ours:
        batch = batch_of(model, columns, rows_at_once, labels)
        batch |= {"known_positives": torch.tensor(known)} if known else {}
        batch |= {"guide": guide_of(batch, labels)} if loss.config.objective == "guided" else {}
        value = loss(batch, labels[:, :3])
    else:
        value = loss([model.preprocess(list(column)) for column in columns], None)
    value.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return value.item(), {name: gradient.clone() for name, gradient in gradients.items()}


@pytest.mark.parametrize("rows_at_once", [1, 3, 24])
@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("kept_tokens", [math.inf, 40, 0])
@pytest.mark.parametrize("with_negatives", [False, True])
def test_value_and_gradients_equal_the_librarys(model, rows_at_once, pieces, kept_tokens, with_negatives):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    columns = COLUMNS if with_negatives else COLUMNS[:2]
    theirs, their_gradients = value_and_gradients(model, MultipleNegativesRankingLoss(model, scale=20), columns, None)
    loss = GlobalBatchLoss(model, LossConfig(20))
    loss.activation_token_budget, loss.sub_chunks = kept_tokens, pieces
    ours, our_gradients = value_and_gradients(model, loss, columns, apart(columns), rows_at_once)
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert int(loss.counts.masked) == 0
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kept_tokens", [math.inf, 0])
@pytest.mark.parametrize("dimensions", [(32, 8, 3), (5,)])
def test_the_sum_over_cut_embeddings_is_the_librarys(model, kept_tokens, dimensions):
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

    library = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model, scale=20), list(dimensions))
    theirs, their_gradients = value_and_gradients(model, library, COLUMNS, None)
    loss = GlobalBatchLoss(model, LossConfig(20), matryoshka_dims=dimensions)
    loss.activation_token_budget = kept_tokens
    ours, our_gradients = value_and_gradients(model, loss, COLUMNS, apart(COLUMNS), 3)
    assert ours == pytest.approx(theirs, abs=1e-12)
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-9, atol=1e-12)


def test_documents_are_masked_once_however_often_embeddings_are_cut(model):
    labels = labels_of([[row, 100 + row % 4] for row in range(8)])
    loss = GlobalBatchLoss(model, LossConfig(20), matryoshka_dims=(32, 16, 8))
    loss(batch_of(model, COLUMNS[:2], 4, labels), labels)
    assert int(loss.counts.masked) == 8


def test_on_two_ranks_value_and_gradients_equal_the_librarys(two_ranks, tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "columns.json").write_text(json.dumps(COLUMNS), encoding="utf-8")
    (tmp_path / "groups.json").write_text(json.dumps(apart(COLUMNS)[:, 1:].tolist()), encoding="utf-8")
    found = two_ranks.ask("loss", tmp_path)
    assert found["ours"]["value"] == pytest.approx(found["theirs"]["value"], abs=1e-12)
    assert found["ours"]["gradients"] == pytest.approx(found["theirs"]["gradients"], rel=1e-9, abs=1e-12)


def test_two_ranks_mask_what_one_would(two_ranks, tmp_path, tiny_model, model):
    """Rows 0 and 4 share a positive, 1 and 5 an anchor: each pair meets across the ranks only."""
    groups = torch.arange(24).reshape(8, 3)
    groups[4, 1], groups[5, 0] = groups[0, 1], groups[1, 0]
    labels = labels_of(groups.tolist())
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "columns.json").write_text(json.dumps(COLUMNS), encoding="utf-8")
    (tmp_path / "groups.json").write_text(json.dumps(groups.tolist()), encoding="utf-8")
    found = two_ranks.ask("loss", tmp_path)
    loss = GlobalBatchLoss(model, LossConfig(20))
    value, gradients = value_and_gradients(model, loss, COLUMNS, labels)
    assert int(loss.counts.masked) == 4
    assert found["ours"]["value"] == pytest.approx(value, abs=1e-12)
    flat = torch.cat([gradient.ravel() for gradient in gradients.values()]).tolist()
    assert found["ours"]["gradients"] == pytest.approx(flat, rel=1e-9, abs=1e-12)


def test_two_ranks_mask_the_positives_that_anchors_have_outside_the_batch(two_ranks, tmp_path, tiny_model, model):
    """The first anchor is also that of a row outside the batch, whose positive is that of the last row."""
    labels = apart(COLUMNS)
    known = [[labels[0, 1].item(), positive] for positive in (labels[0, 2].item(), labels[7, 2].item())]
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "columns.json").write_text(json.dumps(COLUMNS), encoding="utf-8")
    (tmp_path / "groups.json").write_text(json.dumps(labels[:, 1:].tolist()), encoding="utf-8")
    (tmp_path / "known_positives.json").write_text(json.dumps(known), encoding="utf-8")
    result = two_ranks.ask("loss", tmp_path, "ours")["ours"]
    loss = GlobalBatchLoss(model, LossConfig(20))
    value, gradients = value_and_gradients(model, loss, COLUMNS, labels, known=known)
    assert int(loss.counts.masked) == 1
    assert result["value"] == pytest.approx(value, abs=1e-12)
    flat = torch.cat([gradient.ravel() for gradient in gradients.values()]).tolist()
    assert result["gradients"] == pytest.approx(flat, rel=1e-9, abs=1e-12)
    assert value_and_gradients(model, loss, COLUMNS, labels)[0] > value


def test_two_ranks_whose_rows_differ_in_their_negatives_learn_what_one_does(two_ranks, tmp_path, tiny_model, model):
    """Rank 0 has none, rank 1 has five; then rank 0 has one row of two, and rank 1 none."""
    shutil.copytree(tiny_model, tmp_path / "model")
    for kept in ([], [4, 5, 6, 7], [7]), ([2], [2], []):
        columns = COLUMNS[:2] + [
            [text if row in rows else "" for row, text in enumerate(texts)]
            for rows, texts in zip(kept, [NEGATIVES, NEGATIVES[::-1], COLUMNS[1][::-1]], strict=True)
        ]
        labels = apart(columns)
        (tmp_path / "columns.json").write_text(json.dumps(columns), encoding="utf-8")
        (tmp_path / "groups.json").write_text(json.dumps(labels[:, 1:].tolist()), encoding="utf-8")
        found = two_ranks.ask("loss", tmp_path, "ours")["ours"]
        loss = GlobalBatchLoss(model, LossConfig(20))
        value, gradients = value_and_gradients(model, loss, columns, labels)
        documents = 8 + sum(map(len, kept))
        assert loss.counts.negatives == 8 * (documents - 1)
        assert found["negatives"] == 4 * (documents - 1), "of the queries of a rank"
        assert found["value"] == pytest.approx(value, abs=1e-12)
        flat = torch.cat([gradient.ravel() for gradient in gradients.values()]).tolist()
        assert found["gradients"] == pytest.approx(flat, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("objective", get_args(Objective))
@pytest.mark.parametrize("count", ["two", "three"])
def test_ranks_that_differ_in_how_many_rows_they_have_learn_what_one_does(
    request, count, objective, tmp_path, tiny_model, model
):
    """Seven rows, some of them with one or two negatives, some with a text of another rank's row."""
    columns = [column[:7] for column in COLUMNS[:2]]
    columns += [[NEGATIVES[row] if row in rows else "" for row in range(7)] for rows in ((0, 2, 5), (5,))]
    groups = apart(columns)[:, 1:]
    groups[6, 1], groups[5, 0], groups[2, 1] = groups[0, 1], groups[1, 0], groups[3, 1]
    labels = labels_of(groups.tolist())
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "columns.json").write_text(json.dumps(columns), encoding="utf-8")
    (tmp_path / "groups.json").write_text(json.dumps(groups.tolist()), encoding="utf-8")
    found = request.getfixturevalue(f"{count}_ranks").ask("objective", tmp_path, objective)
    loss = GlobalBatchLoss(model, LossConfig(20, objective))
    value, gradients = value_and_gradients(model, loss, columns, labels)
    assert int(loss.counts.masked) > 0
    assert found["value"] == pytest.approx(value, abs=1e-12)
    flat = torch.cat([gradient.ravel() for gradient in gradients.values()]).tolist()
    assert found["gradients"] == pytest.approx(flat, rel=0, abs=1e-12)


def test_rows_may_differ_in_how_many_negatives_they_have(model):
    """The library fills up with empty texts, which then count; here they are looked up by hand."""
    negatives = [[], [NEGATIVES[1]], [], NEGATIVES[2:7], *[[]] * 4]
    columns = COLUMNS[:2] + [[some[at] if at < len(some) else "" for some in negatives] for at in range(5)]
    loss = GlobalBatchLoss(model, LossConfig(20))
    value, _ = value_and_gradients(model, loss, columns, apart(columns))
    every = [*COLUMNS[1], *(text for some in negatives for text in some)]
    queries, documents = (model(model.preprocess(texts))["sentence_embedding"] for texts in (COLUMNS[0], every))
    scores = 20 * torch.nn.functional.cosine_similarity(queries[:, None], documents[None], dim=2)
    assert value == pytest.approx(torch.nn.functional.cross_entropy(scores, torch.arange(8)).item(), abs=1e-12)
    assert loss.counts.tokens == int(model.preprocess(COLUMNS[0] + every)["attention_mask"].sum())


def test_a_false_negative_is_left_out_of_the_softmax(model):
    labels = apart(COLUMNS[:2])
    labels[7, 1] = labels[0, 1]  # one anchor with two positives
    loss = GlobalBatchLoss(model, LossConfig(20))
    value, _ = value_and_gradients(model, loss, COLUMNS[:2], labels)
    queries, documents = (model(model.preprocess(column))["sentence_embedding"] for column in COLUMNS[:2])
    scores = 20 * torch.nn.functional.cosine_similarity(queries[:, None], documents[None], dim=2)
    scores[0, 7] = scores[7, 0] = -torch.inf
    assert value == pytest.approx(torch.nn.functional.cross_entropy(scores, torch.arange(8)).item(), abs=1e-12)


def test_a_batch_of_one_positive_alone_teaches_nothing_and_breaks_nothing(model):
    columns = [COLUMNS[0], [COLUMNS[1][0]] * 8]
    labels = labels_of([[row, 100] for row in range(8)])
    loss = GlobalBatchLoss(model, LossConfig(20))
    value, gradients = value_and_gradients(model, loss, columns, labels)
    assert value == pytest.approx(0, abs=1e-12)
    assert all(torch.isfinite(gradient).all() and gradient.abs().max() < 1e-12 for gradient in gradients.values())


def test_what_was_trained_on_and_masked_is_counted(model):
    labels = labels_of([[row, 100 + row % 4] for row in range(8)])
    loss = GlobalBatchLoss(model, LossConfig(20))
    value = loss(batch_of(model, COLUMNS[:2], 4, labels), labels)
    consumed, losses = loss.take_steps()
    assert [rows.tolist() for rows in consumed] == [list(range(8))]
    assert losses == (value.detach(),)
    assert loss.take_steps() == ((), ())
    assert int(loss.counts.masked) == 8


def test_dropout_is_the_same_when_activations_are_computed_again(model):
    """Else the gradient would be that of other embeddings than those of the loss."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    found = []
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(kept_tokens))
    for kept_tokens in (math.inf, 40, 0):
        torch.manual_seed(0)
        loss = GlobalBatchLoss(model.train(), LossConfig(20))
        loss.activation_token_budget = kept_tokens
        found.append(value_and_gradients(model, loss, COLUMNS, apart(COLUMNS), 5))
    assert calls.count(0) == 2 * calls.count(math.inf) > 2, "once for the loss, once more for the gradient"
    assert calls.count(math.inf) < calls.count(40) < calls.count(0), "some are kept, the others computed again"
    assert found[0][0] == found[1][0] == found[2][0]
    for other in found[1:]:
        torch.testing.assert_close(found[0][1], other[1], rtol=1e-9, atol=1e-12)


def test_kept_activations_halve_before_they_fall_to_none_and_texts_stand_alone(model):
    """Of 64 tokens in chunks of 8, four texts each or one."""
    loss = GlobalBatchLoss(model, LossConfig(20))
    chunks = [{"input_ids": torch.zeros(4, 2, dtype=torch.long)}] * 7 + [{"input_ids": torch.zeros(1, 8)}]
    tried = []
    while loss.reduce_memory(chunks):
        tried.append((loss.activation_token_budget, loss.sub_chunks))
    assert tried == [(32, 1), (16, 1), (8, 1), (0, 1), (0, 2), (0, 4)]


def test_an_estimate_above_what_the_batch_has_is_halved_from_what_it_has(model):
    loss = GlobalBatchLoss(model, LossConfig(20))
    loss.activation_token_budget = 1e9
    assert loss.reduce_memory([{"input_ids": torch.zeros(4, 2)}] * 4)
    assert loss.activation_token_budget == 16


def test_chunks_are_cut_in_parts_of_nearly_as_many_texts(model):
    chunk = model.preprocess(COLUMNS[0])
    assert [len(part["input_ids"]) for part in split_chunk(chunk, 3)] == [3, 3, 2]
    assert [len(part["input_ids"]) for part in split_chunk(chunk, 100)] == [1] * 8
    assert split_chunk(chunk, 1) == [chunk]


def test_pieces_are_halved_until_there_are_as_many_as_another_rank_has():
    rows = torch.arange(22).reshape(11, 2)
    pieces = [{"input_ids": part, "modality": "text"} for part in rows.split((2, 8, 1))]
    cut = split_to_count(pieces, 6)
    assert [len(piece["input_ids"]) for piece in cut] == [2, 2, 2, 2, 2, 1]
    assert torch.equal(torch.cat([piece["input_ids"] for piece in cut]), rows)
    assert {piece["modality"] for piece in cut} == {"text"}
    assert split_to_count(pieces, 3) == pieces


def test_a_rank_with_fewer_texts_than_another_has_pieces_embeds_one_again():
    pieces = [{"input_ids": torch.arange(4).reshape(2, 2)}, {"input_ids": torch.arange(2).reshape(1, 2)}]
    cut = split_to_count(pieces, 6)
    assert [piece["input_ids"].tolist() for piece in cut] == [[[0, 1]], [[2, 3]], *[[[0, 1]]] * 4]
