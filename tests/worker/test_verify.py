"""A saved model must give the embeddings of the trained one."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from mnrl_job.errors import InternalError
from mnrl_job.worker.verify import TOLERANCE, record_probes, verify


@pytest.fixture
def recorded(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    record_probes(SentenceTransformer(str(tiny_model), device="cpu"), tmp_path / "verification.json")
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path


def test_an_intact_model_verifies(recorded):
    verification = verify(recorded / "model", recorded / "verification.json")
    assert verification.reloaded
    assert verification.embedding_dimension == 32
    assert verification.max_difference <= 1e-6


@pytest.mark.parametrize("kind", ["query", "document"])
def test_a_prompt_that_was_not_saved_is_detected(recorded, kind):
    path = recorded / "model" / "config_sentence_transformers.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"prompts": config["prompts"] | {kind: "where is my "}}), encoding="utf-8")
    with pytest.raises(InternalError, match=rf"differ by \d.*\b{TOLERANCE:g}$"):
        verify(recorded / "model", recorded / "verification.json")


def test_a_changed_tensor_is_detected(recorded):
    weights = recorded / "model" / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "layer.1.output.dense.weight" in name)
    tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(InternalError, match=rf"differ by \d.*\b{TOLERANCE:g}$"):
        verify(recorded / "model", recorded / "verification.json")
