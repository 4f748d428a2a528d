"""A run that is stopped or killed goes on where it was, and ends with the weights it would have had."""

import hashlib
import json
import shutil
import signal
import subprocess
import time

import pytest

from tests.conftest import FSDP2, PAIRS, clean_environment, command, write_evalset, write_pairs

STEPS = 300
SETTINGS = {
    "MNRL_TRAIN_DATA": "pairs.jsonl",
    "MNRL_EVAL_DATA": "faq.json",
    "MNRL_BASE_MODEL": "model",
    "MNRL_OUTPUT": "out",
    "MNRL_BATCH_SIZE": "8",
    "MNRL_EPOCHS": str(STEPS // 3),
    "MNRL_CHECKPOINT_EVERY": "20",
    "MNRL_LEAKAGE": "keep",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """Twenty-four pairs, and a model with dropout."""
    folder = tmp_path_factory.mktemp("resume")
    pairs = [(f"{anchor} {mark}", f"{positive} {mark} again") for mark in "xyz" for anchor, positive in PAIRS]
    write_pairs(folder / "pairs.jsonl", pairs)
    write_evalset(folder / "faq.json")
    shutil.copytree(tiny_model, folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    return folder


def start(place, run_id, processes, **more):
    chosen = SETTINGS | more | {"MNRL_RUN_ID": run_id, "MNRL_NUM_PROCESSES": str(processes), "MNRL_PRECISION": "fp32"}
    log = (place / f"{run_id}.log").open("a")
    return subprocess.Popen(command("train"), cwd=place, env=clean_environment(**chosen), stderr=log, stdout=log)


def outcome(place, run_id):
    """The hash of the weights, the digest of the rows, and the logged steps."""
    run = place / "out" / run_id
    assert (run / "_SUCCESS").exists(), (place / f"{run_id}.log").read_text()[-3000:]
    assert not (run / "checkpoints").exists()
    metrics = json.loads((run / "metrics.json").read_text())
    steps = [json.loads(line)["step"] for line in (run / "training_log.jsonl").open()]
    weights = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    return weights, metrics["training"]["rows_digest"], metrics["evaluation"], steps


@pytest.fixture(scope="module", params=[1, 2])
def undisturbed(request, place):
    name = f"whole-{request.param}"
    assert start(place, name, request.param).wait(120) == 0, (place / f"{name}.log").read_text()[-3000:]
    found = outcome(place, name)
    assert found[-1] == list(range(1, STEPS + 1))
    return request.param, found


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_weights_of_a_run_that_was_left_alone(place, undisturbed, how):
    processes, expected = undisturbed
    assert interrupted(place, f"{how.name.lower()}-{processes}", processes, how) == expected


LORA = {"MNRL_LORA_RANK": "4", "MNRL_LEARNING_RATE": "1e-3", "MNRL_EPOCHS": "40"}
SHARDED = {"MNRL_ACCELERATE_CONFIG": "fsdp.yaml", "MNRL_EPOCHS": "40"}


@pytest.mark.parametrize(
    ("name", "processes", "how", "more"),
    [
        ("lora-1", 1, signal.SIGKILL, LORA),
        ("lora-2", 2, signal.SIGTERM, LORA),
        ("sharded", 2, signal.SIGTERM, SHARDED),
    ],
)
def test_so_does_one_that_trains_an_adapter_or_a_sharded_model(place, name, processes, how, more):
    (place / "fsdp.yaml").write_text(FSDP2)
    assert start(place, name, processes, **more).wait(120) == 0, (place / f"{name}.log").read_text()[-3000:]
    expected = outcome(place, name)
    assert interrupted(place, f"{name}-{how.name.lower()}", processes, how, **more) == expected


def interrupted(place, name, processes, how, **more):
    """What comes of a run that is stopped after its first checkpoint, and started again."""
    process = start(place, name, processes, **more)
    checkpoints = place / "out" / name / "checkpoints"
    deadline = time.monotonic() + 60
    while not list(checkpoints.glob("*/manifest.json")):
        assert process.poll() is None, (place / f"{name}.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait(60) == (75 if how == signal.SIGTERM else -signal.SIGKILL)
    assert not (place / "out" / name / "_SUCCESS").exists()
    if how == signal.SIGTERM:
        assert "it goes on from step" in (place / f"{name}.log").read_text()
    assert start(place, name, processes, **more).wait(120) == 0, (place / f"{name}.log").read_text()[-3000:]
    assert "going on from the checkpoint of step" in (place / f"{name}.log").read_text()
    return outcome(place, name)
