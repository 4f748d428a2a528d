"""A run that is stopped or killed goes on where it was, and ends with the weights it would have had."""

import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from mnrl_job.system.devices import visible_gpus
from tests.examples import FSDP2, LONG, PAIRS, write_pairs
from tests.scenes import PATIENCE_SECONDS, make_scene

STEPS = 90
ON_ONE = {"MNRL_EPOCHS": "40", "MNRL_NUM_PROCESSES": "1"}
# The two have three and four rows of a batch.
ON_TWO = {"MNRL_EPOCHS": str(STEPS // 3), "MNRL_NUM_PROCESSES": "2", "MNRL_BATCH_SIZE": "7"}
SHARDED = ON_TWO | {"MNRL_ACCELERATE_CONFIG": "fsdp.yaml"}
# At such a rate the model scores the same all the time, so that patience ends it after 100 of 120 steps.
LORA = {"MNRL_LORA_RANK": "4", "MNRL_LEARNING_RATE": "1e-6"}
SCORED = {"MNRL_EVAL_INTERVAL": "25", "MNRL_EARLY_STOPPING_PATIENCE": "3"}
RECIPE = {
    "MNRL_LOSS": "guided",
    "MNRL_GUIDE_MODEL": "model",
    "MNRL_HARDNESS": "9",
    "MNRL_MATRYOSHKA_DIMS": "32,8",
    "MNRL_QUERY_PROMPT": "where is ",
    "MNRL_NUM_HARD_NEGATIVES": "1",
    "MNRL_HARD_NEGATIVE_RELATIVE_MARGIN": "0",
    "MNRL_MINING_INTERVAL": "epoch",
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tiny_model):
    scene = make_scene(tmp_path_factory.mktemp("resume"), tiny_model)
    pairs = [(f"{anchor} {mark}", f"{positive} {mark} again") for mark in "xyz" for anchor, positive in PAIRS]
    write_pairs(scene.folder / "pairs.jsonl", [*pairs[:-1], LONG])
    (scene.folder / "fsdp.yaml").write_text(FSDP2)
    return scene


def whole(scene, name, settings):
    """What comes out of a run that is left alone."""
    assert scene.run(name, **settings) == 0, scene.log(name)[-3000:]
    return scene.outcome(name)


@pytest.fixture(scope="module")
def undisturbed(scene):
    """What comes out on two processes."""
    found = whole(scene, "whole", ON_TWO)
    assert found[-1] == list(range(1, STEPS + 1))
    return found


@pytest.fixture(scope="module")
def undisturbed_in_shares(scene):
    """What comes out on two processes that hold the model in shares."""
    return whole(scene, "shared", SHARDED)


@pytest.fixture(scope="module")
def stopped(scene):
    """A run on two processes that was stopped after its first checkpoint; tests go on with copies of it."""
    interrupt(scene, "stopped", signal.SIGTERM, ON_TWO)
    return scene.place("stopped")


def test_it_ends_with_the_weights_of_a_run_that_was_left_alone(scene, undisturbed, stopped):
    shutil.copytree(stopped, scene.place("same"))
    assert gone_on_with(scene, "same", ON_TWO) == undisturbed
    first, second = scene.metrics("same")["run"]["attempts"]
    assert (first["outcome"], second["outcome"]) == ("preempted", "succeeded")
    assert first["steps_done"] + second["steps_done"] == STEPS
    assert first["steps_lost"] == second["steps_lost"] == 0


@pytest.mark.parametrize("processes", ["1", "3"])
def test_with_another_number_of_processes_it_goes_on_with_the_same_batches(scene, undisturbed, stopped, processes):
    name = f"on-{processes}"
    shutil.copytree(stopped, scene.place(name))
    found = gone_on_with(scene, name, ON_TWO | {"MNRL_NUM_PROCESSES": processes})
    assert (found[1], found[3]) == (undisturbed[1], undisturbed[3])
    assert scene.metrics(name)["training"]["steps"] == STEPS
    assert "do not match" not in scene.log(name)


def test_a_killed_one_that_uses_every_option_ends_with_the_same_weights_scores_and_negatives(scene):
    settings = ON_ONE | RECIPE | LORA | SCORED
    expected = whole(scene, "recipe", settings)
    interrupt(scene, "recipe-killed", signal.SIGKILL, settings)
    assert gone_on_with(scene, "recipe-killed", settings) == expected
    assert_trained_alike(scene, "recipe", "recipe-killed")
    assert scene.metrics("recipe")["training"]["steps"] == 100
    first, second = scene.metrics("recipe-killed")["run"]["attempts"]
    assert (first["outcome"], second["outcome"]) == ("killed", "succeeded")
    assert first["steps_done"] - first["steps_lost"] + second["steps_done"] == 100


def test_a_model_held_in_shares_learns_what_one_held_whole_does(scene, undisturbed, undisturbed_in_shares):
    """Also where ranks have different numbers of chunks, for each of which all must gather each layer."""
    held_whole, shared = (load_file(scene.place(name) / "model" / "model.safetensors") for name in ("whole", "shared"))
    assert undisturbed_in_shares[1] == undisturbed[1]
    torch.testing.assert_close(shared, held_whole, rtol=0, atol=1e-4)
    assert "accelerate_config" in scene.manifest("shared")["inputs"]


def test_one_held_in_shares_goes_on_too(scene, undisturbed_in_shares):
    interrupt(scene, "shared-stopped", signal.SIGTERM, SHARDED)
    shutil.copytree(scene.place("shared-stopped"), scene.place("shared-one"))
    assert gone_on_with(scene, "shared-stopped", SHARDED) == undisturbed_in_shares
    assert scene.run("shared-one", **SHARDED | {"MNRL_NUM_PROCESSES": "1"}) == 64
    assert "set MNRL_NUM_PROCESSES to 2 or more" in scene.failure("shared-one")["message"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("plain-1", ON_ONE),
        ("adapter-2", ON_TWO | LORA | SCORED),
        ("recipe-2", ON_TWO | RECIPE),
        ("shared-2", SHARDED | LORA),
    ],
)
def test_however_it_is_interrupted_each_kind_of_run_goes_on(scene, name, settings, how):
    name = f"{name}-{how.name.lower()}"
    expected = whole(scene, name, settings)
    interrupt(scene, f"{name}-twice", how, settings)
    assert gone_on_with(scene, f"{name}-twice", settings) == expected
    assert_trained_alike(scene, name, f"{name}-twice")


def interrupt(scene, name, how, settings):
    """Stop or kill a run after its first checkpoint."""
    process = scene.start(name, **settings)
    scene.until(process, name, scene.has_checkpoint(name))
    process.send_signal(how)
    assert process.wait(PATIENCE_SECONDS) == (75 if how == signal.SIGTERM else -signal.SIGKILL)
    assert not (scene.place(name) / "_SUCCESS").exists()
    if how == signal.SIGTERM:
        assert "to resume from step" in scene.log(name)


def gone_on_with(scene, name, settings):
    """What comes out of a run that was interrupted."""
    found = whole(scene, name, settings)
    assert "resuming from step" in scene.log(name)
    return found


def assert_trained_alike(scene, *names):
    """The same scores while it trained, and the same negatives mined; only not in the same time."""
    one, other = (scene.metrics(name)["training"] for name in names)
    assert one["scores"] == other["scores"]
    timeless = [[mining | {"seconds": 0} for mining in training["hard_negative_mining"]] for training in (one, other)]
    assert timeless[0] == timeless[1]


@pytest.mark.gpu
@pytest.mark.skipif(not visible_gpus(), reason="needs a GPU")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_on_a_gpu_it_goes_on_too(scene, how):
    """A GPU adds in another order each time, so the weights are compared as numbers."""
    settings = {"CUDA_VISIBLE_DEVICES": "0", "MNRL_PRECISION": "auto"}
    expected = whole(scene, f"gpu-{how.name.lower()}-whole", settings)
    name = f"gpu-{how.name.lower()}"
    interrupt(scene, name, how, settings)
    found = gone_on_with(scene, name, settings)
    assert (found[1], found[3]) == (expected[1], expected[3])
    once, resumed = (load_file(scene.place(run) / "model" / "model.safetensors") for run in (f"{name}-whole", name))
    for weight in once:
        torch.testing.assert_close(resumed[weight], once[weight], rtol=1e-2, atol=1e-3)
