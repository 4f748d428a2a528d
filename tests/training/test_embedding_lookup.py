"""Words looked up once a step: the same embeddings and gradients as by the model's own table."""

import math

import pytest
import torch

from mnrl_job.training.embedding_lookup import shared_lookup, word_embedding
from mnrl_job.training.losses.mnrl import GlobalBatchLoss
from tests.examples import PAIRS
from tests.training.ranks import batch_of

COLUMNS = [list(column) for column in zip(*PAIRS, strict=True)]


@pytest.fixture
def model(tiny_model):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model), device="cpu").double()


@pytest.mark.parametrize("kept_tokens", [math.inf, 40, 0])
def test_value_and_gradients_stay_the_same(model, monkeypatch, kept_tokens):
    labels = torch.tensor([[row, row, 100 + row] for row in range(8)])
    loss = GlobalBatchLoss(model, 20)
    loss.activation_token_budget = kept_tokens
    batch = batch_of(model, COLUMNS, 3, labels)
    expected = loss(batch, labels)
    expected.backward()
    gradients = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    words = word_embedding(model)
    tables, look_up = [], torch.nn.functional.embedding
    monkeypatch.setattr(
        torch.nn.functional,
        "embedding",
        lambda ids, table, *more, **options: tables.append(len(table)) or look_up(ids, table, *more, **options),
    )
    with shared_lookup(words, [chunk["input_ids"] for chunk in batch["chunks"]]):
        found = loss(batch, labels)
        found.backward()
    assert tables.count(words.num_embeddings) == 1, "the whole table is read once, chunks read a part of it"
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close([weight.grad for weight in model.parameters()], gradients, rtol=1e-9, atol=1e-12)


def test_afterwards_any_word_can_be_looked_up_again_also_after_a_failure(model):
    words = word_embedding(model)
    expected = words(torch.tensor([7]))
    with pytest.raises(RuntimeError, match="step"), shared_lookup(words, [torch.tensor([3, 5])]):
        raise RuntimeError("the step failed")
    assert torch.equal(words(torch.tensor([7])), expected)


def test_models_without_a_plain_table_of_words_are_left_alone(model, static_model):
    assert word_embedding(static_model) is None
    word_embedding(model).sparse = True
    assert word_embedding(model) is None
