"""Whole runs as one would train large models, on a tiny one: adapters, layers computed again, several processes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import FSDP2, PAIRS, read_metrics, write_pairs

# Long enough to be a chunk of its own, so that ranks have different numbers of chunks.
LONG = ("settings " * 30, "open the data page and " * 8)
LORA = {"MNRL_LORA_RANK": "4", "MNRL_LEARNING_RATE": "0.02", "MNRL_EPOCHS": "4"}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_adapter_is_trained_and_saved_merged_and_as_it_is(mnrl_job, good, tmp_path, tiny_model, processes):
    from peft import PeftModel
    from transformers import AutoModel

    more = {"MNRL_NUM_PROCESSES": processes, "MNRL_GRADIENT_CHECKPOINTING": "true", "MNRL_EVAL_EVERY": "2"}
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

    training = read_metrics(run)["training"]
    assert (training["lora_rank"], training["trainable_parameters"]) == (4, 3584)
    assert [one["step"] for one in training["scores"]] == [2, 4]
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


def train_whole_and_shared(mnrl_job, settings, tmp_path):
    """The weights of both."""
    write_pairs(tmp_path / "pairs.jsonl", [*PAIRS[:-1], LONG])
    (tmp_path / "fsdp.yaml").write_text(FSDP2)
    settings = settings | {"MNRL_NUM_PROCESSES": "2", "MNRL_PRECISION": "fp32", "MNRL_EPOCHS": "6"}
    for name, file in {"whole": {}, "shared": {"MNRL_ACCELERATE_CONFIG": "fsdp.yaml"}}.items():
        ended = mnrl_job("train", **settings | file | {"MNRL_RUN_ID": name})
        assert ended.code == 0, ended.stderr
        yield load_file(tmp_path / "out" / name / "model" / "model.safetensors")


@pytest.mark.parametrize("more", [LORA, {"MNRL_GRADIENT_CHECKPOINTING": "true", "MNRL_MINI_BATCH_SIZE": "3"}])
def test_a_model_held_in_shares_learns_what_one_held_whole_does(mnrl_job, good, tmp_path, more):
    """Also where ranks have different numbers of chunks, for each of which all must gather each layer."""
    whole, shared = train_whole_and_shared(mnrl_job, good | more, tmp_path)
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-4)
    run = tmp_path / "out" / "shared"
    assert "accelerate_config" in read(run / "manifest.json")["inputs"]
    assert (run / "adapter").exists() == ("MNRL_LORA_RANK" in more)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("more", [{}, LORA])
def test_two_gpus_hold_a_model_in_shares(mnrl_job, good, tmp_path, more):
    whole, shared = train_whole_and_shared(mnrl_job, good | more | {"CUDA_VISIBLE_DEVICES": "0,1"}, tmp_path)
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-3)


def test_a_file_that_wants_what_there_is_not_is_refused_before_the_data_is_read(mnrl_job, good, tmp_path):
    (tmp_path / "ds.yaml").write_text(FSDP2.replace("FSDP", "DEEPSPEED"))
    ended = mnrl_job("train", **good, MNRL_ACCELERATE_CONFIG="ds.yaml")
    assert ended.code == 64
    assert "distributed_type DEEPSPEED is not supported" in ended.last_line
    assert "read 8 pairs" not in ended.stderr
