"""Whole runs whose weights are mixed with those of the base model."""

import pytest
import torch
from safetensors.torch import load_file

from tests.examples import FSDP2, fill, read_metrics
from tests.program import run_command

LORA = {"MNRL_LORA_RANK": "4"}
FSDP = {"MNRL_NUM_PROCESSES": "2", "MNRL_ACCELERATE_CONFIG": "fsdp.yaml"}


@pytest.mark.parametrize(
    "kind", [{}, LORA, pytest.param(FSDP, marks=pytest.mark.slow)], ids=["all weights", "an adapter", "sharded"]
)
def test_the_published_model_is_the_mixture_and_all_scores_after_are_its_own(tmp_path, tiny_model, kind):
    settings = fill(tmp_path, tiny_model) | kind | {"MNRL_LEARNING_RATE": "0.01", "MNRL_PRECISION": "fp32"}
    (tmp_path / "fsdp.yaml").write_text(FSDP2)
    for name in ("off", "0.25"):
        run = settings | {"MNRL_RUN_ID": name, "MNRL_WEIGHT_INTERPOLATION": name, "MNRL_MIN_GAIN": "-1"}
        ended = run_command(tmp_path, "train", **run)
        assert ended.code == 0, ended.stderr
    base = load_file(tiny_model / "model.safetensors")
    trained, mixed = (load_file(tmp_path / "out" / name / "model" / "model.safetensors") for name in ("off", "0.25"))
    assert any(not torch.equal(trained[name], base[name]) for name in base)
    for name, weight in base.items():
        torch.testing.assert_close(mixed[name], weight + 0.25 * (trained[name] - weight))
    metrics = read_metrics(tmp_path / "out" / "0.25")
    assert metrics["training"]["weight_interpolation"] == 0.25
    assert metrics["training"]["rows_digest"] == read_metrics(tmp_path / "out" / "off")["training"]["rows_digest"]
    assert metrics["verification"]["reloaded"]
    card = (tmp_path / "out" / "0.25" / "model" / "README.md").read_text(encoding="utf-8")
    assert "0.25 trained, 0.75 base" in card
