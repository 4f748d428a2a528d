"""Two nodes, as real hosts with addresses of their own: they train as one, and what ends one of them ends both."""

import json
import re
import signal
import subprocess
import time

import pytest

from tests import hosts
from tests.runs import make_scene

SECONDS = 240
SETTINGS = {"MNRL_EPOCHS": "60", "MNRL_CHECKPOINT_EVERY": "30"}
ON_TWO = {"MNRL_NUM_NODES": "2", "MNRL_MASTER_ADDR": "node-0:29700", "MNRL_NODE_TIMEOUT": "3s"}

LACKING = hosts.why_not()
pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tiny_model):
    return make_scene(tmp_path_factory.mktemp("nodes"), tiny_model)


@pytest.fixture
def pair():
    with hosts.two_hosts() as found:
        yield found


def start_both(scene, pair, run_id, own=({}, {})):
    return [
        scene.start(run_id, f"{run_id}-{rank}", host, **SETTINGS, **ON_TWO, **own[rank], MNRL_NODE_RANK=str(rank))
        for rank, host in enumerate(pair)
    ]


def codes(scene, run_id, nodes, seconds=SECONDS):
    """How both ended; what they said, where they did not end in time."""
    deadline = time.monotonic() + seconds
    try:
        return [node.wait(max(0.0, deadline - time.monotonic())) for node in nodes]
    except subprocess.TimeoutExpired:
        for node in nodes:
            node.kill()
        raise AssertionError(said(scene, run_id)) from None


def said(scene, run_id):
    return "\n".join(path.read_text()[-3000:] for path in sorted(scene.folder.glob(f"{run_id}-?.log")))


def checkpoints(scene, run_id):
    return {path.parent.name for path in scene.place(run_id).glob("checkpoints/*/manifest.json")}


def wait_for_a_checkpoint(scene, run_id, nodes):
    before, deadline = checkpoints(scene, run_id), time.monotonic() + SECONDS
    while not checkpoints(scene, run_id) - before:
        assert all(node.poll() is None for node in nodes), said(scene, run_id)
        assert time.monotonic() < deadline, said(scene, run_id)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def on_one_node(scene):
    """What two workers on one machine come to."""
    alone = scene.start("alone", "alone-0", **SETTINGS, MNRL_NUM_PROCESSES="2")
    assert codes(scene, "alone", [alone]) == [0], said(scene, "alone")
    return scene.outcome("alone")


def test_nodes_that_are_cut_off_and_then_stopped_end_as_one_node_with_two_workers(scene, pair, on_one_node):
    nodes = start_both(scene, pair, "cut")
    wait_for_a_checkpoint(scene, "cut", nodes)
    pair[1].cable("down")
    assert codes(scene, "cut", nodes, seconds=60) == [71, 71], said(scene, "cut")
    for rank in (0, 1):
        told = (scene.folder / f"cut-{rank}.log").read_text().splitlines()[-1]
        assert re.search(rf"\bnode {1 - rank} .*\b3 s\b", told)
    assert json.loads((scene.place("cut") / "failure.json").read_text())["class"] == "hang"

    pair[1].cable("up")
    nodes = start_both(scene, pair, "cut")
    wait_for_a_checkpoint(scene, "cut", nodes)
    nodes[1].send_signal(signal.SIGTERM)
    assert codes(scene, "cut", nodes, seconds=120) == [75, 75], said(scene, "cut")
    assert "it goes on from step" in (scene.folder / "cut-0.log").read_text().splitlines()[-1]
    assert not (scene.place("cut") / "_SUCCESS").exists()

    nodes = start_both(scene, pair, "cut")
    assert codes(scene, "cut", nodes) == [0, 0], said(scene, "cut")
    for rank in (0, 1):
        assert (scene.folder / f"cut-{rank}.log").read_text().count("going on from the checkpoint of step") == 2
    assert "node 0 reports and publishes" in (scene.folder / "cut-1.log").read_text()
    assert scene.outcome("cut") == on_one_node


def test_nodes_with_other_settings_end_before_they_train(scene, pair):
    seeds = ({"MNRL_SEED": "1"}, {"MNRL_SEED": "2"})
    nodes = start_both(scene, pair, "unlike", seeds)
    assert codes(scene, "unlike", nodes) == [64, 64], said(scene, "unlike")
    for rank in (0, 1):
        told = (scene.folder / f"unlike-{rank}.log").read_text().splitlines()[-1]
        assert re.search(r"\bnode 1 .*MNRL_SEED=2\b.*\bnode 0 .*\b1\b", told)
