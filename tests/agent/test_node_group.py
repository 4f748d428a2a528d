"""Nodes connected by torch's own store: they train together, or all exit for one root cause."""

import time

import pytest

from mnrl_job.agent.messages import GroupTimeouts
from mnrl_job.errors import HangTimeout, NotFound, PeerFailed, Preempted
from tests.agent.node_threads import NodeThreads, do_nothing, run_until_stopped

pytestmark = pytest.mark.usefixtures("short_waits")
SHORT_HANG_TIMEOUT = GroupTimeouts(node=2, join=20, hang=1)


def fail_with(failure):
    def train(_group):
        raise failure

    return train


def stop_reporting(group):
    """As a node that has lost its network."""
    group._closing.set()
    time.sleep(8)


def test_nodes_start_together_from_the_checkpoint_that_node_0_names():
    nodes = NodeThreads(3)
    for rank in range(3):
        nodes.start(rank)
    assert nodes.join() == [None] * 3
    assert {(state.members, state.checkpoint) for _, state in nodes.rounds} == {((0, 1, 2), "step-7")}


def test_a_node_waits_for_node_0_to_start():
    """Scaled: 700 of the 1,800 s of the join timeout are 1.6 of 4."""
    nodes = NodeThreads(2)
    timeouts = GroupTimeouts(2, 4, 60, 0.3)
    nodes.start(1, timeouts=timeouts)
    time.sleep(1.6)
    nodes.start(0, timeouts=timeouts)
    assert nodes.join() == [None, None]


def test_a_node_0_that_never_starts_is_reported_with_its_address():
    nodes = NodeThreads(2)
    nodes.start(1, timeouts=GroupTimeouts(1, 0.3, 60))
    (error,) = nodes.join()
    assert isinstance(error, HangTimeout)
    assert str(error).startswith(f"node 0 cannot be reached at localhost:{nodes.port} within 0.3 s")


@pytest.mark.parametrize("failed", [0, 2])
def test_only_the_node_that_failed_exits_with_the_cause(failed):
    nodes = NodeThreads(3)
    for rank in range(3):
        nodes.start(rank, fail_with(NotFound("no such file")) if rank == failed else run_until_stopped)
    errors = nodes.join()
    assert str(errors.pop(failed)) == "no such file"
    assert {(type(error), str(error)) for error in errors} == {(PeerFailed, f"node {failed}: no such file")}


def test_the_preemption_of_one_node_stops_all_with_75():
    nodes = NodeThreads(2)
    nodes.start(0, run_until_stopped)
    nodes.start(1, fail_with(Preempted("stopped on request")))
    assert [type(error) for error in nodes.join()] == [Preempted, Preempted]


def test_a_node_that_stops_reporting_is_lost_after_its_timeout():
    nodes = NodeThreads(2)
    nodes.start(0, run_until_stopped)
    nodes.start(1, stop_reporting)
    started = time.monotonic()
    nodes.threads[0].join(20)
    assert str(nodes.errors[0]).startswith("node 1 is lost: no heartbeat for 2 s")
    assert time.monotonic() - started < 15


def test_a_node_0_that_stops_reporting_is_lost():
    nodes = NodeThreads(2)
    nodes.start(0, stop_reporting)
    nodes.start(1, run_until_stopped)
    nodes.threads[1].join(20)
    assert str(nodes.errors[1]).startswith("node 0 is lost: no heartbeat for 2 s")


def test_a_hang_of_all_workers_stops_all_nodes():
    nodes = NodeThreads(2)
    for rank in range(2):
        nodes.start(rank, run_until_stopped, timeouts=SHORT_HANG_TIMEOUT)
    errors = nodes.join()
    assert [type(error) for error in errors] == [HangTimeout, HangTimeout]
    assert "node 0 worker 0 at train" in str(errors[1])
    assert "node 1 worker 0 at train" in str(errors[0])


def test_it_is_no_hang_while_the_workers_of_one_node_make_progress():
    nodes = NodeThreads(2)
    beats = iter(range(10_000))

    def make_progress(group):
        group._heartbeats = lambda: ({"phase": "train", "heartbeats": next(beats), "step": 4, "total_steps": 9},)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            group.check()
            time.sleep(0.01)

    nodes.start(0, make_progress, timeouts=SHORT_HANG_TIMEOUT)
    nodes.start(1, make_progress, timeouts=SHORT_HANG_TIMEOUT)
    assert nodes.join() == [None, None]


def test_an_elastic_run_starts_another_round_when_a_node_is_lost_and_when_one_joins():
    nodes = NodeThreads(3, min_nodes=2)
    # A long last call, so that all three start together on a busy machine.
    timeouts = GroupTimeouts(node=2, join=20, hang=60, last_call=3)

    def run_until_round_3(group):
        while group.round < 3:
            group.check()
            if group.is_changing():
                nodes.rounds.append((group.nodes.rank, group.next_round(lambda: "step-9", do_nothing)))
            time.sleep(0.01)

    nodes.start(0, run_until_round_3, timeouts=timeouts)
    nodes.start(1, run_until_round_3, timeouts=timeouts)
    nodes.start(2, lambda group: group._closing.set(), timeouts=timeouts)
    while not any(state.round == 2 for _, state in nodes.rounds):
        time.sleep(0.05)
    nodes.start(2, run_until_round_3, timeouts=timeouts)
    for thread in nodes.threads:
        thread.join(30)
    members = {state.round: state.members for _, state in nodes.rounds}
    assert members == {1: (0, 1, 2), 2: (0, 1), 3: (0, 1, 2)}
    assert nodes.errors[0] is nodes.errors[1] is None
