"""Our loss is the library's, value and gradients, whatever the order in which rows are embedded."""

import pytest
import torch

from mnrl_job.training.loss import GlobalBatchLoss
from tests.conftest import PAIRS

NEGATIVES = [positive + " not at all" for _, positive in PAIRS]


@pytest.fixture
def model(tiny_model):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model), device="cpu").double()


def value_and_gradients(model, loss, columns):
    model.zero_grad()
    value = loss([model.preprocess(list(column)) for column in columns], None)
    value.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return value.item(), {name: gradient.clone() for name, gradient in gradients.items()}


@pytest.mark.parametrize("rows_at_once", [None, 1, 3, 8])
@pytest.mark.parametrize("with_negatives", [False, True])
def test_value_and_gradients_equal_the_librarys(model, rows_at_once, with_negatives):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    columns = [*zip(*PAIRS, strict=True), *([NEGATIVES] if with_negatives else [])]
    theirs, their_gradients = value_and_gradients(model, MultipleNegativesRankingLoss(model, scale=20), columns)
    loss = GlobalBatchLoss(model, 20, ranks=1, rows_at_once=rows_at_once)
    ours, our_gradients = value_and_gradients(model, loss, columns)
    assert ours == pytest.approx(theirs, abs=1e-12)
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-9, atol=1e-12)


def test_length_order_reads_less_padding_and_counts_it(model):
    columns = list(zip(*PAIRS, strict=True))
    padded = {}
    for rows_at_once in (None, 2):
        loss = GlobalBatchLoss(model, 20, ranks=1, rows_at_once=rows_at_once)
        loss([model.preprocess(list(column)) for column in columns], None)
        padded[rows_at_once] = (loss.tokens, loss.padded_tokens)
    assert padded[None][0] == padded[2][0] <= padded[2][1] < padded[None][1]
