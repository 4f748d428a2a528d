"""The estimated disk space, compared with what runs use."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mnrl_job.config.settings import Settings
from mnrl_job.data.disk_space import trained_bytes
from mnrl_job.data.inputs import locate_inputs
from mnrl_job.pipeline.inputs import input_uris, needed_scratch_bytes
from tests.scenes import make_scene
from tests.servers.s3 import put


@pytest.fixture
def scene(tmp_path, tiny_model):
    return make_scene(tmp_path, tiny_model)


def located(scene, **changes):
    named = {"train_data": "pairs.jsonl", "eval_data": "faq.json", "base_model": "model"}
    settings = Settings.model_validate({name: str(scene.folder / place) for name, place in named.items()} | changes)
    return locate_inputs(input_uris(settings)), settings


def size_of(folder):
    """Bytes on disk below a folder; hard links count once."""
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                facts = Path(parent, name).stat()
                sizes[facts.st_ino] = facts.st_size
    return sum(sizes.values())


@pytest.mark.parametrize("changes", [{}, {"MNRL_EVAL_INTERVAL": "5"}])
def test_the_estimated_disk_space_is_sufficient_and_at_most_twice_what_is_used(scene, changes):
    work = scene.folder / "work"
    process = scene.start("r", MNRL_WORK_DIR=str(work), MNRL_CHECKPOINT_INTERVAL="2", MNRL_EPOCHS="10", **changes)
    seen = [0]
    while process.poll() is None:
        seen.append(size_of(work))
        time.sleep(0.01)
    assert process.returncode == 0, scene.log("r")[-3000:]
    inputs, settings = located(scene, eval_interval="5" if changes else None)
    needed = needed_scratch_bytes(settings, inputs)
    assert needed / 2 < max(seen) <= needed


def test_a_model_is_estimated_in_fp32_in_a_folder_and_on_s3(scene, moto, reach):
    weights = scene.folder / "model" / "model.safetensors"
    tensors = load_file(weights)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    (scene.folder / "model" / "onnx").mkdir()
    (scene.folder / "model" / "onnx" / "model.onnx").write_bytes(bytes(1_000_000))
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, weights)
    here, _ = located(scene)
    assert trained_bytes(here.model) == 4 * numbers
    uri = reach(moto)
    put(moto, uri, {path.name: path.read_bytes() for path in (scene.folder / "model").glob("*.*") if path.is_file()})
    there, _ = located(scene, base_model=uri)
    assert trained_bytes(there.model) == 4 * numbers


@pytest.mark.parametrize("content", [b"", b"weights", (8).to_bytes(8, "little") + b'{"a": 1}'])
def test_files_without_a_valid_header_count_with_their_size(scene, content):
    (scene.folder / "model" / "model.safetensors").write_bytes(content)
    here, _ = located(scene)
    assert trained_bytes(here.model) == here.model.bytes


def test_evaluation_and_lora_need_less_disk_space(scene):
    inputs, settings = located(scene)
    _, adapter = located(scene, lora_rank=8)
    needed = needed_scratch_bytes(settings, inputs)
    assert needed_scratch_bytes(settings, inputs, trains=False) < needed_scratch_bytes(adapter, inputs) < needed / 5
