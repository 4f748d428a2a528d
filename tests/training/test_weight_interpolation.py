"""Mixtures of trained and base weights."""

import pytest
import torch

from mnrl_job.training.lora import add_adapter, merged, scale_adapter
from mnrl_job.training.weight_interpolation import interpolate, own_weights


@pytest.fixture
def load(tiny_model):
    from sentence_transformers import SentenceTransformer

    return lambda: SentenceTransformer(str(tiny_model), device="cpu")


@torch.no_grad()
def change(model, parts):
    """Change the weights whose names contain one of `parts`, as training would."""
    for seed, (name, weight) in enumerate(model.named_parameters()):
        if any(part in name for part in parts):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) / 10)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_every_weight_lies_between_the_base_and_the_trained_one(load, alpha):
    base, model = load(), load()
    change(model, [""])
    trained = {name: weight.clone() for name, weight in model.state_dict().items()}
    interpolate(own_weights(model), own_weights(base), own_weights(model), alpha)
    for name, weight in model.state_dict().items():
        start = base.state_dict()[name]
        torch.testing.assert_close(weight, start + alpha * (trained[name] - start))


def test_tied_weights_are_interpolated_once(load):
    base, model = load(), load()
    for tied in (base, model):
        tied.decoder = torch.nn.Linear(1, 1, bias=False)
        tied.decoder.weight = tied[0].auto_model.embeddings.word_embeddings.weight
    change(model, ["embeddings"])
    trained = model.decoder.weight.clone()
    interpolate(own_weights(model), own_weights(base), own_weights(model), 0.5)
    torch.testing.assert_close(model.decoder.weight, (base.decoder.weight + trained) / 2)


def test_scaling_an_adapter_interpolates_the_merged_weights(load):
    model = load()
    add_adapter(model, 3, 42, "fp32")
    change(model, ["lora_"])
    expected = merged(model, load())
    interpolate(own_weights(expected), own_weights(load()), own_weights(expected), 0.3)
    scale_adapter(model, 0.3)
    for name, weight in merged(model, load()).state_dict().items():
        torch.testing.assert_close(weight, expected.state_dict()[name])
