"""What node 0 decides from the reports of all nodes: every time is given, so minutes pass in no time."""

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
    """Nodes that each report once a second. What one that vanished said last stays in the store, and is read again."""

    nodes: Nodes
    now: float = 0.0
    reports: dict[int, NodeReport] = field(default_factory=dict)
    vanished: dict[int, NodeReport] = field(default_factory=dict)

    def __post_init__(self):
        self.coordinator = Coordinator(self.nodes, "host", TIMEOUTS, 0.0)

    @property
    def state(self):
        return self.coordinator.state

    def join(self, *ranks, ready=True, **own):
        for rank in ranks:
            self.vanished.pop(rank, None)
            waits = {"fingerprint": FINGERPRINT, "is_waiting": True} if ready else {}
            report = NodeReport(rank, f"life-{rank}", host_incarnation="host", nodes=str(self.nodes))
            self.reports[rank] = replace(report, **waits | own)

    def tell(self, rank, **changes):
        self.reports[rank] = replace(self.reports[rank], **changes)

    def vanish(self, rank):
        self.vanished[rank] = self.reports.pop(rank)

    def after(self, seconds):
        """Let time pass, with agents that begin each round and end workers as they are told."""
        until = self.now + seconds
        while self.now < until:
            self.now += 1
            for rank, report in self.reports.items():
                self.reports[rank] = replace(self._followed(report), sequence=report.sequence + 1)
            for report in (*self.reports.values(), *self.vanished.values()):
                self.coordinator.hear(report, self.now)
            self.coordinator.decide(self.now)
            if members := self.coordinator.ready_members(self.now):
                self.coordinator.begin_round(members, None)
        return self.state

    def _followed(self, report):
        state = self.state
        if report.is_waiting and state.round > report.round and report.node in state.members:
            return replace(report, is_waiting=False, round=state.round)
        ends = (state.is_broken or state.is_resizing) and state.round == report.round
        return replace(report, is_waiting=True, failure=None) if ends and not report.failure else report


def fixed(*ranks, count=None):
    group = Group(Nodes(count or len(ranks), count or len(ranks), 0, "node-0"))
    group.join(*ranks)
    return group


def elastic(*ranks, least=2, most=4):
    group = Group(Nodes(least, most, 0, "node-0"))
    group.join(*ranks)
    return group


def codes(group):
    """With which code each node ends, by number."""
    failure = group.state.failure
    return [type(as_error(failure)) for node in range(group.nodes.max_nodes) if node != failure.node]


def test_a_fixed_number_of_nodes_begins_when_all_are_there_in_the_order_of_their_numbers():
    group = fixed(2, 0, count=3)
    assert group.after(700).round == 0
    group.join(1)
    assert group.after(2).members == (0, 1, 2)


def test_a_node_that_still_prepares_is_waited_for_as_long_as_it_takes():
    group = fixed(0, 1)
    group.join(1, ready=False)
    state = group.after(10_000)
    assert (state.round, state.failure) == (0, None)


def test_a_node_that_does_not_join_in_time_is_named():
    group = fixed(0, 2, count=3)
    assert group.after(1799).failure is None
    error = as_error(group.after(10).failure)
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
def test_nodes_whose_fingerprints_differ_all_end_with_the_code_of_the_difference(change, kind, message):
    group = fixed(0, 1, 2)
    group.tell(1, fingerprint=replace(FINGERPRINT, **change))
    group.after(2)
    assert codes(group) == [kind, kind]
    assert group.state.failure.message.startswith(message)
    assert group.state.round == 0


def test_nodes_that_count_themselves_otherwise_end_with_64():
    group = fixed(0, 1)
    group.tell(1, nodes="2:8")
    group.after(1)
    assert codes(group) == [SettingsError]
    assert group.state.failure.message.startswith("node 1 has MNRL_NUM_NODES=2:8, node 0 has 2;")


def test_a_lost_node_ends_a_fixed_number_of_nodes_with_71():
    group = fixed(0, 1, 2)
    group.after(100)
    group.vanish(1)
    assert group.after(29).failure is None
    group.after(3)
    assert codes(group) == [HangTimeout, HangTimeout]
    assert group.state.failure.message == "node 1 is lost: no heartbeat for 30 s; start all nodes again"


def test_a_node_that_starts_again_while_it_prepares_is_welcome_and_later_is_lost():
    group = fixed(0, 1)
    group.join(1, ready=False)
    group.after(5)
    group.join(1, incarnation="next-life")
    assert group.after(5).members == (0, 1)
    group.join(1, incarnation="third-life")
    assert "node 1 is lost: it started again" in group.after(1).failure.message


def test_a_former_life_of_a_node_is_not_heard_any_more():
    group = fixed(0, 1)
    group.after(1)
    old = group.reports[1]
    group.join(1, incarnation="next-life", ready=False)
    group.after(1)
    group.coordinator.hear(replace(old, sequence=99), group.now)
    assert group.state.heard[1] == "next-life"


def test_a_cause_ends_the_others_with_72_and_a_request_to_stop_all_with_75():
    for failure, kind in ((OutOfMemory("too large"), PeerFailed), (Preempted("stopped"), Preempted)):
        group = fixed(0, 1, 2)
        group.after(5)
        group.tell(1, failure=describe(1, failure))
        group.after(1)
        assert codes(group) == [kind, kind]
        assert group.state.failure.message == f"node 1: {failure}"


def test_of_broken_connections_and_what_broke_them_the_latter_is_the_cause():
    group = fixed(0, 1, 2)
    group.after(5)
    broken = InternalError("connection closed by peer", "Traceback")
    group.tell(0, failure=describe(0, broken))
    group.tell(1, failure=describe(1, broken))
    assert group.after(2).failure is None
    group.tell(2, failure=describe(2, InternalError("worker 0 was killed by SIGKILL")))
    assert group.after(1).failure.node == 2


def test_a_broken_connection_to_a_lost_node_means_that_the_node_is_lost():
    group = fixed(0, 1)
    group.after(5)
    group.vanish(1)
    group.tell(0, failure=describe(0, InternalError("connection closed by peer", "Traceback")))
    assert group.after(20).failure is None
    assert "node 1 is lost" in group.after(15).failure.message


def test_a_fault_that_nobody_explains_is_told_with_its_traceback():
    group = fixed(0, 1)
    group.after(5)
    group.tell(1, failure=describe(1, InternalError("a fault", "Traceback")))
    assert (group.after(5).failure.message, group.state.failure.trace) == ("node 1: a fault", "Traceback")


def test_an_elastic_run_begins_with_the_minimum_after_a_last_call():
    group = elastic(0, 1, 2)
    assert group.after(5).round == 0
    assert group.after(2).members == (0, 1, 2)
    group = elastic(0, 1, 2, 3)
    assert group.after(1).members == (0, 1, 2, 3), "with the maximum nobody is waited for"


def test_an_elastic_run_goes_on_without_a_lost_node_and_again_with_it():
    group = elastic(0, 1, 2)
    group.after(10)
    group.vanish(1)
    state = group.after(40)
    assert (state.round, state.members, state.failure) == (2, (0, 2), None)
    group.join(1, incarnation="next-life")
    state = group.after(10)
    assert (state.round, state.members) == (3, (0, 1, 2))


def test_a_node_that_is_lost_while_it_waits_is_not_taken_along():
    group = elastic(0, 1, 2)
    group.after(4)
    group.vanish(2)
    assert group.after(50).members == (0, 1)


def test_a_node_that_is_stopped_leaves_an_elastic_run_that_goes_on():
    group = elastic(0, 1, 2)
    group.after(10)
    group.tell(2, failure=describe(2, Preempted("stopped")))
    group.after(1)
    group.vanish(2)
    state = group.after(10)
    assert (state.round, state.members, state.failure) == (2, (0, 1), None)


def test_node_0_stopped_stops_an_elastic_run():
    group = elastic(0, 1, 2)
    group.after(10)
    group.tell(0, failure=describe(0, Preempted("stopped")))
    group.after(1)
    assert codes(group) == [Preempted] * 3


def test_below_its_minimum_an_elastic_run_waits_for_the_join_timeout():
    group = elastic(0, 1)
    group.after(10)
    group.vanish(1)
    assert group.after(1700).failure is None
    error = as_error(group.after(200).failure)
    assert isinstance(error, HangTimeout)
    told = "node 1, 2, 3 did not join within 1800 s (MNRL_JOIN_TIMEOUT), 1 are there of MNRL_NUM_NODES=2:4"
    assert str(error) == f"{told}; start all nodes again"


def test_a_newcomer_that_differs_or_fails_does_not_disturb_a_run():
    group = elastic(0, 1)
    group.after(10)
    group.join(2, fingerprint=replace(FINGERPRINT, identity=replace(IDENTITY, settings={"seed": 2})))
    group.join(3, failure=describe(3, NotFound("no such file")), is_waiting=False)
    state = group.after(20)
    assert (state.round, state.failure, set(state.refused)) == (1, None, {2})


def test_nodes_lost_after_training_are_not_missed():
    group = fixed(0, 1)
    group.after(5)
    for rank in (0, 1):
        group.tell(rank, has_trained=True)
    group.after(1)
    group.vanish(1)
    assert group.after(100).failure is None
