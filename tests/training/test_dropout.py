"""Faster dropout on a CPU: the rate, scale and reproducibility of torch's own, in attention too."""

import pytest
import torch
from torch.nn import functional

from mnrl_job.training import dropout as dropout_module
from mnrl_job.training.dropout import attention, dropout, fast_dropout, matches_torch


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elements_are_dropped_at_the_given_rate_and_the_mean_is_kept(p, dtype):
    torch.manual_seed(0)
    dropped = dropout(torch.ones(1000, 1001, dtype=dtype), p)
    assert float((dropped == 0).float().mean()) == pytest.approx(p, abs=0.002)
    assert dropped[dropped != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=0.004)
    assert float((dropped == 0).float().mean(dim=0).std()) < 0.02, "equally likely at each position of the 64 bits"


def test_dropped_elements_get_no_gradient_and_the_others_a_scaled_one():
    numbers = torch.ones(8, 16, requires_grad=True)
    dropped = dropout(numbers, 0.5)
    dropped.sum().backward()
    torch.testing.assert_close(numbers.grad, dropped.detach())


def test_a_seed_reproduces_the_dropout_mask():
    def draw():
        return dropout(torch.ones(100), 0.5)

    torch.manual_seed(3)
    first = draw()
    torch.manual_seed(3)
    assert torch.equal(draw(), first)
    assert not torch.equal(draw(), first)


MASKS = [None, torch.arange(7) < 5, torch.randn(1, 1, 7, 7)]


@pytest.mark.parametrize("mask", MASKS)
def test_attention_without_dropout_equals_torchs(mask):
    query, key, value = torch.randn(3, 2, 4, 7, 8).unbind()
    mask = mask.expand(2, 1, 7, 7) if mask is not None and mask.dtype == torch.bool else mask
    torchs = functional.scaled_dot_product_attention(query, key, value, mask)
    torch.testing.assert_close(attention(query, key, value, mask, 0.0, 8**-0.5), torchs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.bfloat16, torch.float64])
def test_a_mask_of_any_type_keeps_the_precision_of_attention(kind, precision):
    query, key, value = torch.randn(3, 2, 4, 7, 8).unbind()
    mask = (torch.arange(7) < 5).expand(2, 1, 7, 7)
    if kind != torch.bool:
        mask = torch.zeros(mask.shape, dtype=kind).masked_fill(~mask, torch.finfo(kind).min)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        result = attention(query, key, value, mask, 0.0, 8**-0.5)
    assert result.dtype == precision
    torchs = functional.scaled_dot_product_attention(query, key, value, mask if kind == torch.bool else mask.float())
    torch.testing.assert_close(result.float(), torchs, rtol=0.05, atol=0.05)
    assert result.isfinite().all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_positional_bias_gets_a_gradient_in_every_precision(precision):
    from transformers import T5Config, T5EncoderModel

    size = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = T5EncoderModel(T5Config(vocab_size=20, dropout_rate=0.1, **size)).train()
    ids = torch.randint(0, 20, (2, 6))
    with fast_dropout(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        model(
            input_ids=ids, attention_mask=torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
        ).last_hidden_state.sum().backward()
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad
    assert bias.isfinite().all()
    assert bias.any()


def test_dropout_is_replaced_only_inside_the_context_and_not_for_causal_attention():
    query, key, value = torch.randn(3, 2, 4, 7, 8).unbind()
    layer = torch.nn.Dropout(0.5)

    def dropout_and_attention():
        torch.manual_seed(0)
        return layer(query), functional.scaled_dot_product_attention(query, key, value, dropout_p=0.5)

    with fast_dropout():
        replaced = dropout_and_attention()
        causal = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        assert torch.equal(layer.eval()(query), query)
    layer.train()
    torch.manual_seed(0)
    assert torch.equal(replaced[0], dropout(query, 0.5))
    assert torch.equal(replaced[1], attention(query, key, value, None, 0.5, 8**-0.5))
    assert not torch.equal(dropout_and_attention()[0], replaced[0])
    assert torch.equal(causal, functional.scaled_dot_product_attention(query, key, value, is_causal=True))


def test_attention_under_bf16_autocast_returns_bf16():
    query, key, value = torch.randn(3, 2, 4, 7, 8).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        result = attention(query, key, value, None, 0.1, 1.0)
    assert result.dtype == torch.bfloat16


@pytest.fixture
def fresh_self_check():
    matches_torch.cache_clear()
    yield
    matches_torch.cache_clear()


def changed_signature(input, p=0.5, training=True, inplace=False, generator=None):  # noqa: A002, ARG001
    return functional.dropout(input, p, training, inplace)


def other_scale(input, p=0.5, training=True, inplace=False):  # noqa: A002
    return functional.dropout(input, p, training, inplace) * (1 - p)


def other_rate(input, p=0.5, training=True, inplace=False):  # noqa: A002
    return functional.dropout(input, p / 2, training, inplace) * (1 - p / 2) / (1 - p)


def changed_attention(*arguments, **options):
    return functional.scaled_dot_product_attention(*arguments, **options | {"scale": 1.0})


def attention_without_scale(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False):
    return functional.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("TORCH_DROPOUT", changed_signature),
        ("TORCH_DROPOUT", other_scale),
        ("TORCH_DROPOUT", other_rate),
        ("TORCH_ATTENTION", changed_attention),
        ("TORCH_ATTENTION", attention_without_scale),
    ],
)
@pytest.mark.usefixtures("fresh_self_check")
def test_torchs_dropout_is_used_with_one_warning_where_torch_has_changed(monkeypatch, name, changed):
    warnings = []
    monkeypatch.setattr(dropout_module, "warn", warnings.append)
    monkeypatch.setattr(dropout_module, name, changed)
    torchs = functional.dropout
    for _ in range(2):
        with fast_dropout():
            assert functional.dropout is torchs
    (warning,) = warnings
    assert torch.__version__ in warning


@pytest.mark.usefixtures("fresh_self_check")
def test_the_self_check_passes_with_the_installed_torch_and_draws_no_random_number(monkeypatch):
    monkeypatch.setattr(dropout_module, "warn", pytest.fail)
    torch.manual_seed(0)
    expected = torch.rand(8)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert matches_torch()
    assert torch.equal(torch.rand(8), expected)
