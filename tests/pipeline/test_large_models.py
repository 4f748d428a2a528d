"""Whole runs as one would train large models, on a tiny one: adapters, layers computed again, several processes."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from tests.examples import FSDP2, LONG, PAIRS, fill, read_metrics, write_pairs
from tests.program import run_command

LORA = {"MNRL_LORA_RANK": "4", "MNRL_LEARNING_RATE": "0.02", "MNRL_EPOCHS": "4"}
ON_TWO = {"MNRL_NUM_PROCESSES": "2", "MNRL_PRECISION": "fp32"}
SHARED = {"MNRL_ACCELERATE_CONFIG": "fsdp.yaml", "MNRL_RUN_ID": "shared"}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, tiny_model):
    """A folder with a run of two workers that trained an adapter of a model in bf16, layers computed again."""
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("adapted")
    model = SentenceTransformer(str(tiny_model), device="cpu").to(torch.bfloat16)
    model.save_pretrained(str(folder / "half"), create_model_card=False)
    settings = fill(folder, folder / "half") | LORA | ON_TWO | {"MNRL_GRADIENT_CHECKPOINTING": "true"}
    write_pairs(folder / "pairs.jsonl", [*PAIRS[:-1], LONG])
    (folder / "fsdp.yaml").write_text(FSDP2)
    ended = run_command(folder, "train", **settings)
    assert ended.code == 0, ended.stderr
    return folder, settings


def test_an_adapter_is_trained_and_saved_merged_and_as_it_is(adapted):
    from peft import PeftModel
    from transformers import AutoModel

    folder, settings = adapted
    run = folder / "out" / "r"
    merged, half = (load_file(one / "model.safetensors") for one in (run / "model", folder / "half"))
    base = {name: weight.float() for name, weight in half.items()}
    assert merged.keys() == base.keys()
    moved = {name for name in base if not torch.equal(merged[name], base[name])}
    assert moved == {name for name in base if ".layer." in name and "LayerNorm" not in name and name.endswith("weight")}
    plain = AutoModel.from_pretrained(folder / "half", dtype=torch.float32)
    by_peft = PeftModel.from_pretrained(plain, str(run / "adapter")).merge_and_unload().state_dict()
    for name in moved:
        torch.testing.assert_close(by_peft[name], merged[name])

    training = read_metrics(run)["training"]
    assert (training["lora_rank"], training["trainable_parameters"]) == (4, 3584)
    assert read(run / "metrics.json")["model"]["parameters"] == sum(weight.numel() for weight in base.values())
    config = read(run / "adapter" / "adapter_config.json")
    assert config["base_model_name_or_path"] == settings["MNRL_BASE_MODEL"]
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "LoRA adapter of rank 4 with 3584 parameters" in card


def test_what_an_adapter_is_added_to_is_saved_in_fp32_also_where_it_was_published_in_bf16(adapted):
    """In bf16 the small steps of the optimizer would be rounded away."""
    saved = load_file(adapted[0] / "out" / "r" / "model" / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    weight = saved["encoder.layer.0.output.dense.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())


def test_an_adapter_of_a_model_held_in_shares_learns_what_that_of_one_held_whole_does(adapted):
    """Also where ranks have different numbers of chunks, for each of which all must gather each layer."""
    folder, settings = adapted
    ended = run_command(folder, "train", **settings | SHARED)
    assert ended.code == 0, ended.stderr
    whole, shared = (load_file(folder / "out" / name / "model" / "model.safetensors") for name in ("r", "shared"))
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-4)
    run = folder / "out" / "shared"
    assert "accelerate_config" in read(run / "manifest.json")["inputs"]
    assert (run / "adapter").exists()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("more", [{}, LORA])
def test_two_gpus_hold_a_model_in_shares(mnrl_job, good, tmp_path, more):
    write_pairs(tmp_path / "pairs.jsonl", [*PAIRS[:-1], LONG])
    (tmp_path / "fsdp.yaml").write_text(FSDP2)
    settings = good | ON_TWO | more | {"MNRL_EPOCHS": "6", "CUDA_VISIBLE_DEVICES": "0,1"}
    for shares in ({}, SHARED):
        ended = mnrl_job("train", **settings | shares)
        assert ended.code == 0, ended.stderr
    whole, shared = (load_file(tmp_path / "out" / name / "model" / "model.safetensors") for name in ("r", "shared"))
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-3)


def test_a_file_that_wants_what_there_is_not_is_refused_before_the_data_is_read(mnrl_job, good, tmp_path):
    (tmp_path / "ds.yaml").write_text(FSDP2.replace("FSDP", "DEEPSPEED"))
    ended = mnrl_job("train", **good, MNRL_ACCELERATE_CONFIG="ds.yaml")
    assert ended.code == 64
    assert re.search("MNRL_ACCELERATE_CONFIG: .*DEEPSPEED", ended.last_line)
    assert "read 8 pairs" not in ended.stderr
