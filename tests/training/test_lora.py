"""Adapters: what is trained, what is kept and in which precision, and what becomes of it."""

import pytest
import torch

from mnrl_job.embedding.precision import autocast
from mnrl_job.errors import SettingsError
from mnrl_job.training.lora import add_adapter, merged, read_adapter, write_adapter
from tests.examples import PAIRS

TEXTS = [text for pair in PAIRS for text in pair]
LAYERS, LINEAR, HIDDEN, WIDE, RANK = 2, 4, 32, 64, 3


def load(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def adapted(folder, precision="fp32", seed=42):
    model = load(folder)
    add_adapter(model, RANK, seed, precision)
    return model


def trainable(model):
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def disturb(model):
    """As if it had been trained."""
    for number, weight in enumerate(trainable(model).values()):
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) / 3)


def embed(model):
    return model(model.preprocess(TEXTS))["sentence_embedding"]


def test_only_the_adapters_of_layers_that_are_read_are_trained(tiny_model):
    model = adapted(tiny_model)
    assert all(".lora_" in name and ".layer." in name for name in trainable(model))
    square, wide = 2 * RANK * HIDDEN, RANK * (HIDDEN + WIDE)
    assert sum(weight.numel() for weight in trainable(model).values()) == LAYERS * (LINEAR * square + 2 * wide)


def test_a_new_adapter_has_no_effect_and_depends_on_the_seed(tiny_model):
    one, same, other = adapted(tiny_model), adapted(tiny_model), adapted(tiny_model, seed=7)
    assert torch.equal(embed(one), embed(load(tiny_model)))
    first = [next(iter(trainable(model).values())) for model in (one, same, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_merged_model_is_plain_and_gives_the_same_embeddings(tiny_model, precision):
    model = adapted(tiny_model, precision)
    disturb(model)
    plain = merged(model, load(tiny_model))
    assert plain.state_dict().keys() == load(tiny_model).state_dict().keys()
    assert {weight.dtype for weight in plain.parameters()} == {torch.float32}
    assert not hasattr(plain.transformers_model, "peft_config")
    with autocast(precision, model.device):
        expected = embed(model)
    assert (expected - embed(load(tiny_model))).abs().max() > 0.05
    torch.testing.assert_close(embed(plain), expected.float(), rtol=0, atol={"fp32": 1e-5, "bf16": 5e-2}[precision])


def test_the_folder_is_one_that_peft_reads(tiny_model, tmp_path):
    from peft import PeftConfig, PeftModel
    from transformers import AutoModel

    model = adapted(tiny_model)
    disturb(model)
    write_adapter(model, "owner/name@v1", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = PeftConfig.from_pretrained(str(tmp_path))
    assert (config.base_model_name_or_path, config.revision, config.r) == ("owner/name", "v1", RANK)
    read = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_model), str(tmp_path)).eval()
    features = model.preprocess(TEXTS)
    tokens = {name: features[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    expected = model.transformers_model(**tokens).last_hidden_state
    torch.testing.assert_close(read(**tokens).last_hidden_state, expected)


def test_an_adapter_names_a_base_whose_place_has_an_at_sign_in_it(tiny_model, tmp_path):
    from peft import PeftConfig

    write_adapter(adapted(tiny_model), "s3://bucket/foo@v2", tmp_path)
    config = PeftConfig.from_pretrained(str(tmp_path))
    assert (config.base_model_name_or_path, config.revision) == ("s3://bucket/foo@v2", None)


def test_an_adapter_is_read_back_exactly(tiny_model, tmp_path):
    model, other = adapted(tiny_model), adapted(tiny_model, seed=7)
    disturb(model)
    write_adapter(model, "base", tmp_path)
    read_adapter(other, tmp_path)
    assert all(torch.equal(weight, trainable(other)[name]) for name, weight in trainable(model).items())


def test_frozen_weights_are_cast_once_and_not_per_chunk(tiny_model):
    model = adapted(tiny_model, "bf16")
    assert {weight.dtype for weight in trainable(model).values()} == {torch.float32}
    layers = [one.base_layer.weight for one in model.modules() if hasattr(one, "lora_A")]
    assert {weight.dtype for weight in layers} == {torch.bfloat16}
    shapes = {tuple(weight.shape) for weight in layers} | {tuple(weight.T.shape) for weight in layers}
    kept = []
    keeping = torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one)
    with keeping, autocast("bf16", model.device):
        chunks = [embed(model) for _ in range(2)]
    weights = {one.data_ptr() for one in kept if tuple(one.shape) in shapes}
    assert len(weights) >= LAYERS * (LINEAR + 2) - 3  # of the first layer's inputs no gradient is asked for
    assert weights <= {weight.data_ptr() for weight in model.parameters()}
    with autocast("bf16", model.device):
        assert torch.equal(chunks[1], embed(load(tiny_model)))


def test_a_model_without_layers_to_adapt_is_refused(static_model):
    with pytest.raises(SettingsError, match=f"^MNRL_LORA_RANK={RANK}: "):
        add_adapter(static_model, RANK, 42, "fp32")
