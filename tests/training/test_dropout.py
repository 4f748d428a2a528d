"""Dropout on a CPU: as often, as large and as repeatable as torch's own, also inside attention."""

import pytest
import torch
from torch.nn import functional

from mnrl_job.training.dropout import attention, cheap_dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_many_are_dropped_as_asked_for_and_the_mean_stays(p, dtype):
    torch.manual_seed(0)
    found = dropout(torch.ones(1000, 1001, dtype=dtype), p)
    assert float((found == 0).float().mean()) == pytest.approx(p, abs=0.002)
    assert found[found != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=0.004)
    assert float((found == 0).float().mean(dim=0).std()) < 0.02, "everywhere alike, also within 64 bits"


def test_what_is_dropped_gets_no_gradient_and_the_rest_its_share():
    numbers = torch.ones(8, 16, requires_grad=True)
    found = dropout(numbers, 0.5)
    found.sum().backward()
    torch.testing.assert_close(numbers.grad, found.detach())


def test_a_seed_repeats_it():
    def draw():
        return dropout(torch.ones(100), 0.5)

    torch.manual_seed(3)
    first = draw()
    torch.manual_seed(3)
    assert torch.equal(draw(), first)
    assert not torch.equal(draw(), first)


MASKS = [None, torch.arange(7) < 5, torch.randn(1, 1, 7, 7)]


@pytest.mark.parametrize("mask", MASKS)
def test_attention_is_torchs(mask):
    query, key, value = torch.randn(3, 2, 4, 7, 8).unbind()
    mask = mask.expand(2, 1, 7, 7) if mask is not None and mask.dtype == torch.bool else mask
    theirs = functional.scaled_dot_product_attention(query, key, value, mask)
    torch.testing.assert_close(attention(query, key, value, mask, 0.0, 8**-0.5), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.bfloat16, torch.float64])
def test_a_mask_of_any_type_leaves_the_arithmetic_as_it_is(kind, precision):
    query, key, value = torch.randn(3, 2, 4, 7, 8).unbind()
    mask = (torch.arange(7) < 5).expand(2, 1, 7, 7)
    if kind != torch.bool:
        mask = torch.zeros(mask.shape, dtype=kind).masked_fill(~mask, torch.finfo(kind).min)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        found = attention(query, key, value, mask, 0.0, 8**-0.5)
    assert found.dtype == precision
    theirs = functional.scaled_dot_product_attention(query, key, value, mask if kind == torch.bool else mask.float())
    torch.testing.assert_close(found.float(), theirs, rtol=0.05, atol=0.05)
    assert found.isfinite().all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_bias_on_the_positions_trains_in_every_precision(precision):
    from transformers import T5Config, T5EncoderModel

    size = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = T5EncoderModel(T5Config(vocab_size=20, dropout_rate=0.1, **size)).train()
    ids = torch.randint(0, 20, (2, 6))
    with cheap_dropout(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        model(
            input_ids=ids, attention_mask=torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
        ).last_hidden_state.sum().backward()
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad
    assert bias.isfinite().all()
    assert bias.any()


def test_wherever_a_model_drops_out_it_is_replaced_and_nowhere_else():
    query, key, value = torch.randn(3, 2, 4, 7, 8).unbind()
    layer = torch.nn.Dropout(0.5)

    def both():
        torch.manual_seed(0)
        return layer(query), functional.scaled_dot_product_attention(query, key, value, dropout_p=0.5)

    with cheap_dropout():
        replaced = both()
        causal = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        assert torch.equal(layer.eval()(query), query)
    layer.train()
    torch.manual_seed(0)
    assert torch.equal(replaced[0], dropout(query, 0.5))
    assert torch.equal(replaced[1], attention(query, key, value, None, 0.5, 8**-0.5))
    assert not torch.equal(both()[0], replaced[0])
    assert torch.equal(causal, functional.scaled_dot_product_attention(query, key, value, is_causal=True))


def test_in_bf16_attention_returns_what_it_was_asked_in():
    query, key, value = torch.randn(3, 2, 4, 7, 8).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(query, key, value, None, 0.1, 1.0)
    assert found.dtype == torch.bfloat16
