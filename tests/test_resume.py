"""A run that is stopped or killed goes on where it was, and ends with the weights it would have had."""

import json
import signal
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from mnrl_job.runtime.devices import visible_gpus
from tests.conftest import FSDP2
from tests.runs import STEPS, make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tiny_model):
    return make_scene(tmp_path_factory.mktemp("resume"), tiny_model)


@pytest.fixture(scope="module")
def undisturbed(scene):
    """What comes out of a run on one process, and of one on two."""

    @cache
    def outcome(processes):
        name = f"whole-{processes}"
        assert scene.run(name, MNRL_NUM_PROCESSES=processes) == 0, scene.log(name)[-3000:]
        found = scene.outcome(name)
        assert found[-1] == list(range(1, STEPS + 1))
        return found

    return outcome


# `make chaos` tries the rest.
@pytest.mark.parametrize(("how", "processes"), [(signal.SIGKILL, "1"), (signal.SIGTERM, "2")])
def test_it_ends_with_the_weights_of_a_run_that_was_left_alone(scene, undisturbed, how, processes):
    name = how.name.lower()
    assert interrupted(scene, name, how, MNRL_NUM_PROCESSES=processes) == undisturbed(processes)
    first, second = scene.metrics(name)["run"]["attempts"]
    assert (first["outcome"], second["outcome"]) == ("preempted" if how == signal.SIGTERM else "killed", "succeeded")
    assert first["steps_done"] - first["steps_lost"] + second["steps_done"] == STEPS
    assert second["steps_lost"] == 0
    if how == signal.SIGTERM:
        assert first["steps_lost"] == 0


LORA = {"MNRL_LORA_RANK": "4", "MNRL_LEARNING_RATE": "1e-3", "MNRL_EPOCHS": "40"}
# The tiny model scores the same all the time, so that patience ends it.
SCORED = {"MNRL_EVAL_EVERY": "25", "MNRL_PATIENCE": "3"}
SHARDED = {"MNRL_ACCELERATE_CONFIG": "fsdp.yaml", "MNRL_EPOCHS": "40"}

RECIPE = {
    "MNRL_LOSS": "guided",
    "MNRL_GUIDE_MODEL": "model",
    "MNRL_HARDNESS": "9",
    "MNRL_MATRYOSHKA_DIMS": "32,8",
    "MNRL_QUERY_PROMPT": "where is ",
    "MNRL_HARD_NEGATIVES": "1",
    "MNRL_HARD_NEGATIVE_MARGIN": "0",
    "MNRL_MINE_EVERY": "epoch",
    "MNRL_EPOCHS": "40",
}


@pytest.mark.parametrize(
    ("name", "processes", "how", "more"),
    [
        ("adapter", "2", signal.SIGKILL, LORA | SCORED),
        ("sharded", "2", signal.SIGTERM, SHARDED),
        ("recipe", "2", signal.SIGKILL, RECIPE),
    ],
)
def test_so_does_one_that_trains_otherwise(scene, name, processes, how, more):
    (scene.folder / "fsdp.yaml").write_text(FSDP2)
    settings = more | {"MNRL_NUM_PROCESSES": processes}
    assert scene.run(name, **settings) == 0, scene.log(name)[-3000:]
    resumed = f"{name}-{how.name.lower()}"
    assert interrupted(scene, resumed, how, **settings) == scene.outcome(name)
    trainings = [scene.metrics(run)["training"] for run in (name, resumed)]
    assert trainings[0]["scores"] == trainings[1]["scores"]
    assert [mined(one) for one in trainings] == [mined(trainings[0])] * 2
    assert trainings[0]["steps"] == (100 if name == "adapter" else STEPS * 2 // 3)


def mined(training):
    return [one | {"seconds": 0} for one in training["minings"]]


def interrupted(scene, name, how, **settings):
    """What comes out of a run that was stopped or killed after its first checkpoint, and then gone on with."""
    process = scene.start(name, **settings)
    scene.until(process, name, scene.has_checkpoint(name))
    process.send_signal(how)
    assert process.wait(60) == (75 if how == signal.SIGTERM else -signal.SIGKILL)
    assert not (scene.place(name) / "_SUCCESS").exists()
    if how == signal.SIGTERM:
        assert "it goes on from step" in scene.log(name)
    assert scene.run(name, **settings) == 0, scene.log(name)[-3000:]
    assert "going on from the checkpoint of step" in scene.log(name)
    return scene.outcome(name)


def test_with_another_number_of_processes_it_goes_on_with_the_same_batches(scene, undisturbed):
    process = scene.start("fewer", MNRL_NUM_PROCESSES="2")
    scene.until(process, "fewer", scene.has_checkpoint("fewer"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert scene.run("fewer", MNRL_NUM_PROCESSES="1") == 0, scene.log("fewer")[-3000:]
    (_, digest, _, steps), (_, expected, _, _) = scene.outcome("fewer"), undisturbed("1")
    assert digest == expected
    assert steps == list(range(1, STEPS + 1))
    assert json.loads((scene.place("fewer") / "metrics.json").read_text())["training"]["steps"] == STEPS


@pytest.mark.gpu
@pytest.mark.skipif(not visible_gpus(), reason="needs a GPU")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_on_a_gpu_it_goes_on_too(scene, how):
    """A GPU adds in another order each time, so the weights are compared as numbers."""
    settings = {"CUDA_VISIBLE_DEVICES": "0", "MNRL_PRECISION": "auto"}
    assert scene.run("gpu-whole", **settings) == 0, scene.log("gpu-whole")[-3000:]
    name = f"gpu-{how.name.lower()}"
    process = scene.start(name, **settings)
    scene.until(process, name, scene.has_checkpoint(name))
    process.send_signal(how)
    assert process.wait(60) == (75 if how == signal.SIGTERM else -signal.SIGKILL)
    assert scene.run(name, **settings) == 0, scene.log(name)[-3000:]
    found, expected = scene.outcome(name), scene.outcome("gpu-whole")
    assert (found[1], found[3]) == (expected[1], expected[3])
    whole, resumed = (load_file(scene.place(run) / "model" / "model.safetensors") for run in ("gpu-whole", name))
    for weight in whole:
        torch.testing.assert_close(resumed[weight], whole[weight], rtol=1e-2, atol=1e-3)
