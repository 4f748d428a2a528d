"""Nodes as hosts with addresses of their own: they train together, and each ends with the right exit code."""

import json
import re
import signal
import subprocess
import time

import pytest

from tests import hosts
from tests.program import run_command
from tests.scenes import SETTINGS as SCENE
from tests.scenes import make_scene, workers_of

SECONDS = 240
SETTINGS = {"MNRL_EPOCHS": "60", "MNRL_CHECKPOINT_INTERVAL": "30"}
ON_TWO = {"MNRL_NUM_NODES": "2", "MNRL_MASTER_ADDR": "node-0:29700", "MNRL_NODE_TIMEOUT": "3s"}
ELASTIC = ON_TWO | {"MNRL_NUM_NODES": "2:4", "MNRL_EPOCHS": "500", "MNRL_CHECKPOINT_INTERVAL": "60"}

LACKING = hosts.why_not()
pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tiny_model):
    return make_scene(tmp_path_factory.mktemp("nodes"), tiny_model)


@pytest.fixture
def pair():
    with hosts.several_hosts(2) as pair:
        yield pair


@pytest.fixture
def four():
    with hosts.several_hosts(4) as four:
        yield four


def start_node(scene, host, run_id, rank, **settings):
    return scene.start(run_id, f"{run_id}-{rank}", host, **SETTINGS | ON_TWO | settings, MNRL_NODE_RANK=str(rank))


def start_both(scene, pair, run_id, own=({}, {})):
    return [start_node(scene, host, run_id, rank, **own[rank]) for rank, host in enumerate(pair)]


def codes(scene, run_id, nodes, seconds=SECONDS):
    """The exit codes of all nodes; fails with their logs where one does not end in time."""
    deadline = time.monotonic() + seconds
    try:
        return [node.wait(max(0.0, deadline - time.monotonic())) for node in nodes]
    except subprocess.TimeoutExpired:
        for node in nodes:
            node.kill()
        raise AssertionError(logs(scene, run_id)) from None


def logs(scene, run_id):
    return "\n".join(path.read_text()[-3000:] for path in sorted(scene.folder.glob(f"{run_id}-?.log")))


def last_line(scene, run_id, rank):
    return scene.log(f"{run_id}-{rank}").splitlines()[-1]


def checkpoints(scene, run_id):
    return {path.parent.name for path in scene.run_folder(run_id).glob("checkpoints/*/manifest.json")}


def until(scene, run_id, nodes, condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert all(node.poll() is None for node in nodes), logs(scene, run_id)
        assert time.monotonic() < deadline, logs(scene, run_id)
        time.sleep(0.05)


def until_a_checkpoint(scene, run_id, nodes):
    before = checkpoints(scene, run_id)
    until(scene, run_id, nodes, lambda: checkpoints(scene, run_id) - before)


def until_workers(scene, run_id, nodes, count):
    """Wait until so many workers start to train together."""
    line = f"with {count} x CPU"
    before = scene.log(f"{run_id}-0").count(line)
    until(scene, run_id, nodes, lambda: scene.log(f"{run_id}-0").count(line) > before)


def listening(host):
    """The addresses at which processes of a host listen."""
    sockets = subprocess.run(host.command("ss", "-ltnH"), capture_output=True, text=True, check=True)
    return {line.split()[3].rpartition(":")[0] for line in sockets.stdout.splitlines()}


@pytest.fixture(scope="module")
def on_one_node(scene):
    """The outcome of two workers on one machine, which listen on loopback only."""
    with hosts.several_hosts(1) as (host,):
        alone = scene.start("alone", "alone-0", host, **SETTINGS, MNRL_NUM_PROCESSES="2")
        addresses = set()
        while alone.poll() is None:
            addresses |= listening(host)
            time.sleep(1)
    assert codes(scene, "alone", [alone]) == [0], logs(scene, "alone")
    assert addresses == {"127.0.0.1"}
    return scene.outcome("alone")


def test_after_a_network_failure_and_a_preemption_two_nodes_end_like_one_node_with_two_workers(
    scene, pair, on_one_node
):
    nodes = start_both(scene, pair, "cut")
    until_a_checkpoint(scene, "cut", nodes)
    pair[1].cable("down")
    assert codes(scene, "cut", nodes, seconds=60) == [71, 71], logs(scene, "cut")
    for rank in (0, 1):
        assert re.search(rf"\bnode {1 - rank} .*\b3 s\b", last_line(scene, "cut", rank))
    assert json.loads((scene.run_folder("cut") / "failure.json").read_text())["class"] == "hang"

    pair[1].cable("up")
    nodes = start_both(scene, pair, "cut")
    until_a_checkpoint(scene, "cut", nodes)
    nodes[1].send_signal(signal.SIGTERM)
    assert codes(scene, "cut", nodes, seconds=120) == [75, 75], logs(scene, "cut")
    assert "to resume from step" in last_line(scene, "cut", 0)
    assert not (scene.run_folder("cut") / "_SUCCESS").exists()

    nodes = start_both(scene, pair, "cut")
    assert codes(scene, "cut", nodes) == [0, 0], logs(scene, "cut")
    for rank in (0, 1):
        assert scene.log(f"cut-{rank}").count("resuming from step") == 2
    assert "waiting for node 0 to report and publish" in scene.log("cut-1")
    assert scene.outcome("cut") == on_one_node


def test_nodes_with_different_settings_end_before_training(scene, pair):
    seeds = ({"MNRL_SEED": "1"}, {"MNRL_SEED": "2"})
    nodes = start_both(scene, pair, "unlike", seeds)
    assert codes(scene, "unlike", nodes) == [64, 64], logs(scene, "unlike")
    for rank in (0, 1):
        assert re.search(r"\bnode 1 .*MNRL_SEED=2\b.*\bnode 0 .*\b1\b", last_line(scene, "unlike", rank))


def test_a_failing_node_ends_with_its_own_code_and_the_others_with_72(scene, pair):
    nodes = start_both(scene, pair, "lacking", ({}, {"MNRL_TRAIN_DATA": "nowhere.jsonl"}))
    assert codes(scene, "lacking", nodes) == [72, 66], logs(scene, "lacking")
    assert "nowhere.jsonl" in last_line(scene, "lacking", 0)
    failure = json.loads((scene.run_folder("lacking") / "failure.json").read_text())
    assert (failure["exit_code"], failure["class"], failure["retry_helps"]) == (72, "peer_failed", True)


def test_a_node_preempted_while_it_starts_ends_with_the_code_of_preemption(scene, pair):
    node = start_node(scene, pair[1], "early", 1, fresh=True)
    until(scene, "early", [node], lambda: workers_of(node, "mnrl_job.agent"))
    node.send_signal(signal.SIGTERM)
    assert codes(scene, "early", [node]) == [75], logs(scene, "early")


@pytest.mark.slow
def test_a_node_that_waits_for_others_stays_healthy_and_its_preemption_is_retryable(scene, pair):
    work = scene.folder / "waiting-work"
    progress = work / "progress.json"
    own = {"MNRL_HANG_TIMEOUT": "20s", "MNRL_WORK_DIR": str(work)}
    node = start_node(scene, pair[0], "waiting", 0, **own)
    until(scene, "waiting", [node], lambda: progress.exists() and json.loads(progress.read_text())["phase"] == "join")
    first = progress.read_text()
    time.sleep(21)
    assert json.loads(progress.read_text())["updated_at"] > json.loads(first)["updated_at"]
    node.send_signal(signal.SIGTERM)
    assert codes(scene, "waiting", [node]) == [75], logs(scene, "waiting")


@pytest.mark.slow
def test_an_elastic_run_continues_while_nodes_are_killed_disconnected_preempted_and_join(scene, four):
    nodes = {rank: start_node(scene, four[rank], "elastic", rank, **ELASTIC) for rank in (0, 1, 2)}
    until_a_checkpoint(scene, "elastic", nodes.values())
    nodes.pop(2).kill()
    until_workers(scene, "elastic", nodes.values(), 2)
    nodes[3] = start_node(scene, four[3], "elastic", 3, **ELASTIC)
    until_workers(scene, "elastic", nodes.values(), 3)

    nodes[3].send_signal(signal.SIGTERM)
    stopped = nodes.pop(3)
    until_workers(scene, "elastic", nodes.values(), 2)
    assert codes(scene, "elastic", [stopped]) == [75], logs(scene, "elastic")

    nodes[2] = start_node(scene, four[2], "elastic", 2, **ELASTIC)
    until_workers(scene, "elastic", nodes.values(), 3)
    four[1].cable("down")
    cut = nodes.pop(1)
    until_workers(scene, "elastic", nodes.values(), 2)
    assert codes(scene, "elastic", [cut]) == [71], logs(scene, "elastic")

    assert codes(scene, "elastic", nodes.values()) == [0, 0], logs(scene, "elastic")
    alone = scene.start("as-one", "as-one-0", **SETTINGS | {"MNRL_EPOCHS": "500"})
    assert codes(scene, "as-one", [alone]) == [0], logs(scene, "as-one")
    assert scene.outcome("elastic")[1] == scene.outcome("as-one")[1], "the same rows in the same order"


@pytest.mark.slow
def test_when_node_0_is_lost_the_others_end_with_71_and_the_restarted_nodes_resume(scene, four):
    nodes = {rank: start_node(scene, four[rank], "headless", rank, **ELASTIC) for rank in (0, 1, 2)}
    until_a_checkpoint(scene, "headless", nodes.values())
    nodes.pop(0).kill()
    assert codes(scene, "headless", nodes.values(), seconds=90) == [71, 71], logs(scene, "headless")
    nodes = {rank: start_node(scene, four[rank], "headless", rank, **ELASTIC) for rank in (0, 2)}
    assert codes(scene, "headless", nodes.values()) == [0, 0], logs(scene, "headless")
    assert "resuming from step" in scene.log("headless-0")
    assert (scene.run_folder("headless") / "_SUCCESS").exists()


@pytest.mark.slow
def test_nodes_train_from_data_that_was_prepared_once_also_after_they_were_killed(scene, pair, on_one_node):
    prepared = {"MNRL_PREPARED": "prepared"}
    ended = run_command(scene.folder, "prepare", **SCENE | SETTINGS | prepared)
    assert ended.code == 0, ended.stderr
    nodes = start_both(scene, pair, "from-prepared", (prepared, prepared))
    until_a_checkpoint(scene, "from-prepared", nodes)
    for node in nodes:
        node.kill()
    nodes = start_both(scene, pair, "from-prepared", (prepared, prepared))
    assert codes(scene, "from-prepared", nodes) == [0, 0], logs(scene, "from-prepared")
    for rank in (0, 1):
        log = scene.log(f"from-prepared-{rank}")
        assert log.count("pairs of the prepared data set prepared/") == 2
        assert "resuming from step" in log
        assert not re.search(r"read \d+ pairs|tokenizing batch by batch", log)
    assert scene.outcome("from-prepared") == on_one_node
