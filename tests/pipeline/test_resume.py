"""A preempted or killed run resumes, and ends with the weights of an uninterrupted one."""

import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from mnrl_job.system.devices import visible_gpus
from tests.examples import FSDP2, LONG, PAIRS, write_pairs
from tests.scenes import TIMEOUT_SECONDS, make_scene

STEPS = 90
ON_ONE = {"MNRL_EPOCHS": "40", "MNRL_NUM_PROCESSES": "1"}
# The two have three and four rows of a batch.
ON_TWO = {"MNRL_EPOCHS": str(STEPS // 3), "MNRL_NUM_PROCESSES": "2", "MNRL_BATCH_SIZE": "7"}
SHARDED = ON_TWO | {"MNRL_ACCELERATE_CONFIG": "fsdp.yaml"}
# At this rate the score does not change, so that early stopping ends the run after 100 of 120 steps.
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
    write_pairs(
        scene.folder / "pairs.jsonl", [*pairs[:-1], LONG, ("print the receipt", "receipts are on the orders page")]
    )
    (scene.folder / "fsdp.yaml").write_text(FSDP2)
    return scene


def finished(scene, name, settings):
    """The outcome of a run that is not interrupted (again)."""
    assert scene.run(name, **settings) == 0, scene.log(name)[-3000:]
    return scene.outcome(name)


@pytest.fixture(scope="module")
def uninterrupted(scene):
    """The outcome on two processes."""
    outcome = finished(scene, "uninterrupted", ON_TWO)
    assert outcome[-1] == list(range(1, STEPS + 1))
    return outcome


@pytest.fixture(scope="module")
def uninterrupted_sharded(scene):
    """The outcome on two processes that shard the model."""
    return finished(scene, "sharded", SHARDED)


@pytest.fixture(scope="module")
def preempted(scene):
    """A run on two processes that was preempted after its first checkpoint; tests resume copies of it."""
    interrupt(scene, "preempted", signal.SIGTERM, ON_TWO)
    return scene.run_folder("preempted")


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(scene, uninterrupted, preempted):
    shutil.copytree(preempted, scene.run_folder("same"))
    assert resumed(scene, "same", ON_TWO) == uninterrupted
    first, second = scene.metrics("same")["run"]["attempts"]
    assert (first["outcome"], second["outcome"]) == ("preempted", "succeeded")
    assert first["steps_done"] + second["steps_done"] == STEPS
    assert first["steps_lost"] == second["steps_lost"] == 0


@pytest.mark.parametrize("processes", ["1", "3"])
def test_a_run_resumes_with_the_same_batches_on_another_number_of_processes(scene, uninterrupted, preempted, processes):
    name = f"on-{processes}"
    shutil.copytree(preempted, scene.run_folder(name))
    outcome = resumed(scene, name, ON_TWO | {"MNRL_NUM_PROCESSES": processes})
    assert (outcome[1], outcome[3]) == (uninterrupted[1], uninterrupted[3])
    assert scene.metrics(name)["training"]["steps"] == STEPS
    assert "do not match" not in scene.log(name)


def test_a_killed_run_with_every_option_ends_with_the_same_weights_scores_and_negatives(scene):
    settings = ON_ONE | RECIPE | LORA | SCORED
    expected = finished(scene, "recipe", settings)
    interrupt(scene, "recipe-killed", signal.SIGKILL, settings)
    assert resumed(scene, "recipe-killed", settings) == expected
    assert_trained_alike(scene, "recipe", "recipe-killed")
    assert scene.metrics("recipe")["training"]["steps"] == 100
    first, second = scene.metrics("recipe-killed")["run"]["attempts"]
    assert (first["outcome"], second["outcome"]) == ("killed", "succeeded")
    assert first["steps_done"] - first["steps_lost"] + second["steps_done"] == 100


def test_a_sharded_model_is_trained_to_the_same_weights(scene, uninterrupted, uninterrupted_sharded):
    """Also where ranks have different numbers of chunks, for each of which all must gather each layer."""
    names = "uninterrupted", "sharded"
    unsharded, sharded = (load_file(scene.run_folder(name) / "model" / "model.safetensors") for name in names)
    assert uninterrupted_sharded[1] == uninterrupted[1]
    torch.testing.assert_close(sharded, unsharded, rtol=0, atol=1e-4)
    assert "accelerate_config" in scene.manifest("sharded")["inputs"]


def test_a_run_with_a_sharded_model_resumes(scene, uninterrupted_sharded):
    interrupt(scene, "sharded-preempted", signal.SIGTERM, SHARDED)
    shutil.copytree(scene.run_folder("sharded-preempted"), scene.run_folder("sharded-on-one"))
    assert resumed(scene, "sharded-preempted", SHARDED) == uninterrupted_sharded
    assert scene.run("sharded-on-one", **SHARDED | {"MNRL_NUM_PROCESSES": "1"}) == 64
    assert "set MNRL_NUM_PROCESSES to 2 or more" in scene.failure("sharded-on-one")["message"]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("plain-1", ON_ONE),
        ("adapter-2", ON_TWO | LORA | SCORED),
        ("recipe-2", ON_TWO | RECIPE),
        ("sharded-2", SHARDED | LORA),
    ],
)
def test_each_kind_of_run_resumes_after_each_kind_of_interruption(scene, name, settings, signum):
    name = f"{name}-{signum.name.lower()}"
    expected = finished(scene, name, settings)
    interrupt(scene, f"{name}-twice", signum, settings)
    assert resumed(scene, f"{name}-twice", settings) == expected
    assert_trained_alike(scene, name, f"{name}-twice")


def interrupt(scene, name, signum, settings):
    """Send a signal to a run after its first checkpoint."""
    process = scene.start(name, **settings)
    scene.until(process, name, scene.has_checkpoint(name))
    process.send_signal(signum)
    assert process.wait(TIMEOUT_SECONDS) == (75 if signum == signal.SIGTERM else -signal.SIGKILL)
    assert not (scene.run_folder(name) / "_SUCCESS").exists()
    if signum == signal.SIGTERM:
        assert "to resume from step" in scene.log(name)


def resumed(scene, name, settings):
    """The outcome of a run that was interrupted before."""
    outcome = finished(scene, name, settings)
    assert "resuming from step" in scene.log(name)
    return outcome


def assert_trained_alike(scene, *names):
    """Compare the scores during training and the mined negatives, except their times."""
    first, second = (scene.metrics(name)["training"] for name in names)
    assert first["scores"] == second["scores"]
    timeless = [
        [mining | {"seconds": 0} for mining in training["hard_negative_mining"]] for training in (first, second)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.gpu
@pytest.mark.skipif(not visible_gpus(), reason="needs a GPU")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_resumes_on_a_gpu(scene, signum):
    """A GPU sums in another order each time, so the weights are compared with a tolerance."""
    settings = {"CUDA_VISIBLE_DEVICES": "0", "MNRL_PRECISION": "auto"}
    expected = finished(scene, f"gpu-{signum.name.lower()}-whole", settings)
    name = f"gpu-{signum.name.lower()}"
    interrupt(scene, name, signum, settings)
    outcome = resumed(scene, name, settings)
    assert (outcome[1], outcome[3]) == (expected[1], expected[3])
    expected_weights, weights = (
        load_file(scene.run_folder(run) / "model" / "model.safetensors") for run in (f"{name}-whole", name)
    )
    for name in weights:
        torch.testing.assert_close(weights[name], expected_weights[name], rtol=1e-2, atol=1e-3)
