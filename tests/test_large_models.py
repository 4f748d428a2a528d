"""Whole runs as one would train large models, on a tiny one: adapters, layers computed again, several processes."""

import json

import pytest
import torch
from safetensors.torch import load_file

LORA = {"MNRL_LORA_RANK": "4", "MNRL_LEARNING_RATE": "0.02", "MNRL_EPOCHS": "4"}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_adapter_is_trained_and_saved_merged_and_as_it_is(mnrl_job, good, tmp_path, tiny_model, processes):
    from peft import PeftModel
    from transformers import AutoModel

    more = {"MNRL_NUM_PROCESSES": processes, "MNRL_GRADIENT_CHECKPOINTING": "true"}
    ended = mnrl_job("train", **good, **LORA, **more)
    assert ended.code == 0, ended.stderr
    run = tmp_path / "out" / "r"

    merged, base = (load_file(folder / "model.safetensors") for folder in (run / "model", tiny_model))
    assert merged.keys() == base.keys()
    moved = {name for name in base if not torch.equal(merged[name], base[name])}
    assert moved == {name for name in base if ".layer." in name and "LayerNorm" not in name and name.endswith("weight")}
    adapter = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_model), str(run / "adapter"))
    by_peft = adapter.merge_and_unload().state_dict()
    for name in moved:
        torch.testing.assert_close(by_peft[name], merged[name])

    training = read(run / "metrics.json")["training"]
    assert (training["lora_rank"], training["trainable_parameters"]) == (4, 3584)
    assert read(run / "metrics.json")["model"]["parameters"] == sum(weight.numel() for weight in base.values())
    assert read(run / "adapter" / "adapter_config.json")["base_model_name_or_path"] == good["MNRL_BASE_MODEL"]
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "3584 numbers of a LoRA adapter of rank 4" in card
    assert mnrl_job("verify", str(run)).code == 0


def test_what_cannot_be_adapted_is_refused(mnrl_job, good, tmp_path, static_model):
    static_model.save_pretrained(str(tmp_path / "static"), create_model_card=False)
    ended = mnrl_job("train", **good | LORA | {"MNRL_BASE_MODEL": "static"})
    assert ended.code == 64
    assert "MNRL_LORA_RANK=4: this model has no linear layers" in ended.last_line


@pytest.mark.parametrize("more", [{}, LORA])
def test_a_model_published_in_bf16_is_trained_and_saved_in_fp32(mnrl_job, good, tmp_path, tiny_model, more):
    """In bf16 the small steps of the optimizer would be rounded away."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model), device="cpu").to(torch.bfloat16)
    model.save_pretrained(str(tmp_path / "half"), create_model_card=False)
    ended = mnrl_job("train", **good | more | {"MNRL_BASE_MODEL": "half"})
    assert ended.code == 0, ended.stderr
    saved = load_file(tmp_path / "out" / "r" / "model" / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    weight = saved["encoder.layer.0.output.dense.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())
