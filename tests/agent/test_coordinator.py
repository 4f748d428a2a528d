"""Decisions of node 0 from the reports of all nodes, with a simulated clock."""

from dataclasses import dataclass, field, replace

import pytest

from mnrl_job.agent.coordinator import Coordinator
from mnrl_job.agent.messages import GroupTimeouts, NodeReport, as_error, describe
from mnrl_job.errors import (
    DataError,
    EnvironmentFailure,
    HangTimeout,
    InternalError,
    NotFound,
    OutOfMemory,
    PeerFailed,
    Preempted,
    SettingsError,
)
from mnrl_job.launch.fingerprint import Fingerprint
from mnrl_job.launch.nodes import Nodes
from mnrl_job.launch.run_identity import RunIdentity

IDENTITY = RunIdentity({"seed": 1}, {"train/pairs": "abc", "batches": "plan"})
FINGERPRINT = Fingerprint(IDENTITY, {"torch": "2.13.0"}, 1)
TIMEOUTS = GroupTimeouts(node=30, join=1800, hang=600, last_call=5)


@dataclass
class Group:
    """Nodes that report once a second. The last report of a vanished node stays in the store, and is read again."""

    nodes: Nodes
    now: float = 0.0
    reports: dict[int, NodeReport] = field(default_factory=dict)
    vanished: dict[int, NodeReport] = field(default_factory=dict)

    def __post_init__(self):
        self.coordinator = Coordinator(self.nodes, "host", TIMEOUTS, 0.0)

    @property
    def state(self):
        return self.coordinator.state

    def join(self, *ranks, ready=True, **changes):
        for rank in ranks:
            self.vanished.pop(rank, None)
            readiness = {"fingerprint": FINGERPRINT, "is_waiting": True} if ready else {}
            report = NodeReport(rank, f"process-{rank}", host_incarnation="host", nodes=str(self.nodes))
            self.reports[rank] = replace(report, **readiness | changes)

    def report(self, rank, **changes):
        self.reports[rank] = replace(self.reports[rank], **changes)

    def vanish(self, rank):
        self.vanished[rank] = self.reports.pop(rank)

    def advance(self, seconds):
        """Let time pass, with agents that start each round and stop workers as the state says."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            for rank, report in self.reports.items():
                self.reports[rank] = replace(self._next_report(report), sequence=report.sequence + 1)
            for report in (*self.reports.values(), *self.vanished.values()):
                self.coordinator.receive(report, self.now)
            self.coordinator.update(self.now)
            if members := self.coordinator.ready_members(self.now):
                self.coordinator.start_round(members, None)
        return self.state

    def _next_report(self, report):
        state = self.state
        if report.is_waiting and state.round > report.round and report.node in state.members:
            return replace(report, is_waiting=False, round=state.round)
        stops = (state.is_broken or state.is_resizing) and state.round == report.round
        return replace(report, is_waiting=True, failure=None) if stops and not report.failure else report


def fixed(*ranks, count=None):
    group = Group(Nodes(count or len(ranks), count or len(ranks), 0, "node-0"))
    group.join(*ranks)
    return group


def elastic(*ranks, min_nodes=2, max_nodes=4):
    group = Group(Nodes(min_nodes, max_nodes, 0, "node-0"))
    group.join(*ranks)
    return group


def errors_elsewhere(group):
    """The error class of each node but the one that failed, by rank."""
    failure = group.state.failure
    return [type(as_error(failure)) for node in range(group.nodes.max_nodes) if node != failure.node]


def test_a_fixed_number_of_nodes_starts_when_all_have_joined_ordered_by_rank():
    group = fixed(2, 0, count=3)
    assert group.advance(700).round == 0
    group.join(1)
    assert group.advance(2).members == (0, 1, 2)


def test_a_node_that_prepares_its_data_is_waited_for_without_a_timeout():
    group = fixed(0, 1)
    group.join(1, ready=False)
    state = group.advance(10_000)
    assert (state.round, state.failure) == (0, None)


def test_a_node_that_does_not_join_in_time_is_named():
    group = fixed(0, 2, count=3)
    assert group.advance(1799).failure is None
    error = as_error(group.advance(10).failure)
    assert isinstance(error, HangTimeout)
    assert str(error) == "node 1 did not join within 1800 s (MNRL_JOIN_TIMEOUT); start all nodes again"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"identity": replace(IDENTITY, settings={"seed": 2})},
            SettingsError,
            "node 1 has MNRL_SEED=2, node 0 has 1; give all nodes",
        ),
        (
            {"identity": replace(IDENTITY, inputs={"train/pairs": "xyz"})},
            DataError,
            "node 1 reads other data for train/pairs than node 0 (SHA-256",
        ),
        (
            {"identity": replace(IDENTITY, inputs=IDENTITY.inputs | {"batches": "x"})},
            DataError,
            "node 1 computed another batch plan than node 0",
        ),
        (
            {"versions": {"torch": "2.12.0"}},
            EnvironmentFailure,
            "node 1 has torch 2.12.0, node 0 has 2.13.0; run the same",
        ),
        ({"workers": 2}, SettingsError, "node 1 has 2 worker(s), node 0 has 1; give all nodes the same devices"),
    ],
    ids=["settings", "data", "plan", "versions", "workers"],
)
def test_if_fingerprints_differ_all_nodes_exit_with_the_code_of_the_difference(change, kind, message):
    group = fixed(0, 1, 2)
    group.report(1, fingerprint=replace(FINGERPRINT, **change))
    group.advance(2)
    assert errors_elsewhere(group) == [kind, kind]
    assert group.state.failure.message.startswith(message)
    assert group.state.round == 0


def test_nodes_that_disagree_on_the_number_of_nodes_exit_with_64():
    group = fixed(0, 1)
    group.report(1, nodes="2:8")
    group.advance(1)
    assert errors_elsewhere(group) == [SettingsError]
    assert group.state.failure.message.startswith("node 1 has MNRL_NUM_NODES=2:8, node 0 has 2;")


def test_with_a_fixed_number_of_nodes_a_lost_node_stops_all_with_71():
    group = fixed(0, 1, 2)
    group.advance(100)
    group.vanish(1)
    assert group.advance(29).failure is None
    group.advance(3)
    assert errors_elsewhere(group) == [HangTimeout, HangTimeout]
    assert group.state.failure.message == "node 1 is lost: no heartbeat for 30 s; start all nodes again"


def test_a_node_may_be_restarted_while_it_prepares_but_later_counts_as_lost():
    group = fixed(0, 1)
    group.join(1, ready=False)
    group.advance(5)
    group.join(1, incarnation="restarted")
    assert group.advance(5).members == (0, 1)
    group.join(1, incarnation="restarted-again")
    assert "node 1 is lost: it was restarted" in group.advance(1).failure.message


def test_reports_of_an_earlier_process_of_a_node_are_ignored():
    group = fixed(0, 1)
    group.advance(1)
    old = group.reports[1]
    group.join(1, incarnation="restarted", ready=False)
    group.advance(1)
    group.coordinator.receive(replace(old, sequence=99), group.now)
    assert group.state.incarnations[1] == "restarted"


def test_a_failure_stops_the_other_nodes_with_72_and_a_preemption_all_with_75():
    for failure, kind in ((OutOfMemory("too large"), PeerFailed), (Preempted("stopped"), Preempted)):
        group = fixed(0, 1, 2)
        group.advance(5)
        group.report(1, failure=describe(1, failure))
        group.advance(1)
        assert errors_elsewhere(group) == [kind, kind]
        assert group.state.failure.message == f"node 1: {failure}"


def test_the_failure_that_broke_connections_is_the_root_cause():
    group = fixed(0, 1, 2)
    group.advance(5)
    broken = InternalError("connection closed by peer", "Traceback")
    group.report(0, failure=describe(0, broken))
    group.report(1, failure=describe(1, broken))
    assert group.advance(2).failure is None
    group.report(2, failure=describe(2, InternalError("worker 0 was killed by SIGKILL")))
    assert group.advance(1).failure.node == 2


def test_a_connection_broken_by_a_lost_node_is_reported_as_the_lost_node():
    group = fixed(0, 1)
    group.advance(5)
    group.vanish(1)
    group.report(0, failure=describe(0, InternalError("connection closed by peer", "Traceback")))
    assert group.advance(20).failure is None
    assert "node 1 is lost" in group.advance(15).failure.message


def test_an_unexplained_failure_is_reported_with_its_traceback():
    group = fixed(0, 1)
    group.advance(5)
    group.report(1, failure=describe(1, InternalError("a fault", "Traceback")))
    assert (group.advance(5).failure.message, group.state.failure.trace) == ("node 1: a fault", "Traceback")


def test_an_elastic_run_starts_with_the_minimum_after_a_last_call():
    group = elastic(0, 1, 2)
    assert group.advance(5).round == 0
    assert group.advance(2).members == (0, 1, 2)
    group = elastic(0, 1, 2, 3)
    assert group.advance(1).members == (0, 1, 2, 3), "with the maximum there is no last call"


def test_an_elastic_run_resumes_without_a_lost_node_and_again_with_it():
    group = elastic(0, 1, 2)
    group.advance(10)
    group.vanish(1)
    state = group.advance(40)
    assert (state.round, state.members, state.failure) == (2, (0, 2), None)
    group.join(1, incarnation="restarted")
    state = group.advance(10)
    assert (state.round, state.members) == (3, (0, 1, 2))


def test_a_node_that_is_lost_while_it_waits_does_not_become_a_member():
    group = elastic(0, 1, 2)
    group.advance(4)
    group.vanish(2)
    assert group.advance(50).members == (0, 1)


def test_an_elastic_run_resumes_without_a_preempted_node():
    group = elastic(0, 1, 2)
    group.advance(10)
    group.report(2, failure=describe(2, Preempted("stopped")))
    group.advance(1)
    group.vanish(2)
    state = group.advance(10)
    assert (state.round, state.members, state.failure) == (2, (0, 1), None)


def test_the_preemption_of_node_0_stops_an_elastic_run():
    group = elastic(0, 1, 2)
    group.advance(10)
    group.report(0, failure=describe(0, Preempted("stopped")))
    group.advance(1)
    assert errors_elsewhere(group) == [Preempted] * 3


def test_below_its_minimum_an_elastic_run_waits_for_the_join_timeout():
    group = elastic(0, 1)
    group.advance(10)
    group.vanish(1)
    assert group.advance(1700).failure is None
    error = as_error(group.advance(200).failure)
    assert isinstance(error, HangTimeout)
    assert "node 1, 2, 3 did not join within 1800 s (MNRL_JOIN_TIMEOUT), 1 joined of MNRL_NUM_NODES=2:4" in str(error)


def test_a_new_node_that_differs_or_fails_does_not_affect_a_running_round():
    group = elastic(0, 1)
    group.advance(10)
    group.join(2, fingerprint=replace(FINGERPRINT, identity=replace(IDENTITY, settings={"seed": 2})))
    group.join(3, failure=describe(3, NotFound("no such file")), is_waiting=False)
    state = group.advance(20)
    assert (state.round, state.failure, set(state.refused)) == (1, None, {2})


def test_a_node_may_be_lost_after_training():
    group = fixed(0, 1)
    group.advance(5)
    group.report(0, has_trained=True)
    group.report(1, has_trained=True)
    group.vanish(1)
    assert group.advance(100).failure is None
