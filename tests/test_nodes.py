"""Two nodes, as real hosts with addresses of their own: they train as one, and what ends one of them ends both."""

import hashlib
import json
import shutil
import signal
import subprocess
import time

import pytest

from tests import hosts
from tests.conftest import PAIRS, clean_environment, command, write_evalset, write_pairs

SECONDS = 60
SETTINGS = {
    "MNRL_TRAIN_DATA": "pairs.jsonl",
    "MNRL_EVAL_DATA": "faq.json",
    "MNRL_BASE_MODEL": "model",
    "MNRL_OUTPUT": "out",
    "MNRL_BATCH_SIZE": "8",
    "MNRL_EPOCHS": "60",
    "MNRL_CHECKPOINT_EVERY": "30",
    "MNRL_LEAKAGE": "keep",
    "MNRL_PRECISION": "fp32",
}
ON_TWO = {"MNRL_NODES": "2", "MNRL_MASTER": "node-0:29700", "MNRL_NODE_TIMEOUT": "3s"}

LACKING = hosts.why_not()
pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """Twenty-four pairs, and a model with dropout."""
    folder = tmp_path_factory.mktemp("nodes")
    pairs = [(f"{anchor} {mark}", f"{positive} {mark} again") for mark in "xyz" for anchor, positive in PAIRS]
    write_pairs(folder / "pairs.jsonl", pairs)
    write_evalset(folder / "faq.json")
    shutil.copytree(tiny_model, folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def pair():
    with hosts.two_hosts() as found:
        yield found


def start(place, name, wrapped, **settings):
    log = (place / f"{name}.log").open("a")
    environment = clean_environment(**SETTINGS | settings)
    return subprocess.Popen(wrapped(*command("train")), cwd=place, env=environment, stderr=log, stdout=log)


def start_both(place, pair, run_id, own=({}, {})):
    shared = ON_TWO | {"MNRL_RUN_ID": run_id}
    return [
        start(place, f"{run_id}-{rank}", host.command, **shared, **own[rank], MNRL_NODE_RANK=str(rank))
        for rank, host in enumerate(pair)
    ]


def codes(place, run_id, nodes, seconds=SECONDS):
    """How both ended; what they said, where they did not end in time."""
    deadline = time.monotonic() + seconds
    try:
        return [node.wait(max(0.0, deadline - time.monotonic())) for node in nodes]
    except subprocess.TimeoutExpired:
        for node in nodes:
            node.kill()
        raise AssertionError(said(place, run_id)) from None


def said(place, run_id):
    return "\n".join(path.read_text()[-3000:] for path in sorted(place.glob(f"{run_id}-?.log")))


def checkpoints(place, run_id):
    return {path.parent.name for path in (place / "out" / run_id / "checkpoints").glob("*/manifest.json")}


def wait_for_a_checkpoint(place, run_id, nodes):
    before, deadline = checkpoints(place, run_id), time.monotonic() + SECONDS
    while not checkpoints(place, run_id) - before:
        assert all(node.poll() is None for node in nodes), said(place, run_id)
        assert time.monotonic() < deadline, said(place, run_id)
        time.sleep(0.05)


def outcome(place, run_id):
    """The hash of the weights, the digest of the rows, the scores."""
    run = place / "out" / run_id
    assert (run / "_SUCCESS").exists(), said(place, run_id)
    assert not (run / "checkpoints").exists()
    metrics = json.loads((run / "metrics.json").read_text())
    weights = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    return weights, metrics["training"]["rows_digest"], metrics["evaluation"]


@pytest.fixture(scope="module")
def on_one_node(place):
    """What two workers on one machine come to."""
    alone = start(place, "alone-0", lambda *words: list(words), MNRL_RUN_ID="alone", MNRL_NUM_PROCESSES="2")
    assert codes(place, "alone", [alone]) == [0], said(place, "alone")
    return outcome(place, "alone")


def test_two_nodes_train_as_one_node_with_two_workers(place, pair, on_one_node):
    nodes = start_both(place, pair, "both")
    assert codes(place, "both", nodes) == [0, 0], said(place, "both")
    assert outcome(place, "both") == on_one_node
    assert "node 0 reports and publishes" in (place / "both-1.log").read_text()


def test_nodes_that_are_cut_off_and_then_stopped_end_with_the_weights_of_those_left_alone(place, pair, on_one_node):
    nodes = start_both(place, pair, "cut")
    wait_for_a_checkpoint(place, "cut", nodes)
    pair[1].cable("down")
    assert codes(place, "cut", nodes, seconds=15) == [71, 71], said(place, "cut")
    for rank in (0, 1):
        told = (place / f"cut-{rank}.log").read_text().splitlines()[-1]
        assert f"node {1 - rank} is lost: no sign of life for 3 s" in told
    assert json.loads((place / "out" / "cut" / "failure.json").read_text())["class"] == "hang"

    pair[1].cable("up")
    nodes = start_both(place, pair, "cut")
    wait_for_a_checkpoint(place, "cut", nodes)
    nodes[1].send_signal(signal.SIGTERM)
    assert codes(place, "cut", nodes, seconds=30) == [75, 75], said(place, "cut")
    assert "it goes on from step" in (place / "cut-0.log").read_text().splitlines()[-1]
    assert not (place / "out" / "cut" / "_SUCCESS").exists()

    nodes = start_both(place, pair, "cut")
    assert codes(place, "cut", nodes) == [0, 0], said(place, "cut")
    for rank in (0, 1):
        assert (place / f"cut-{rank}.log").read_text().count("going on from the checkpoint of step") == 2
    assert outcome(place, "cut") == on_one_node


def test_nodes_with_other_settings_end_before_they_train(place, pair):
    seeds = ({"MNRL_SEED": "1"}, {"MNRL_SEED": "2"})
    nodes = start_both(place, pair, "unlike", seeds)
    assert codes(place, "unlike", nodes) == [64, 64], said(place, "unlike")
    for rank in (0, 1):
        told = (place / f"unlike-{rank}.log").read_text().splitlines()[-1]
        assert "node 1 has MNRL_SEED=2, node 0 has 1; give all nodes the same settings" in told
