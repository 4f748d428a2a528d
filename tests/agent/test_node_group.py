"""Nodes that meet in torch's own store: they train as one, or all end for one cause. Strangers change nothing."""

import socket
import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from mnrl_job.agent import coordinator, node_group, peer, store
from mnrl_job.agent.host import HostGroup
from mnrl_job.agent.messages import GroupTimeouts
from mnrl_job.agent.peer import PeerGroup
from mnrl_job.agent.signed_store import SignatureError, SignedStore
from mnrl_job.errors import (
    EnvironmentFailure,
    HangTimeout,
    InternalError,
    JobError,
    NotFound,
    PeerFailed,
    Preempted,
    SettingsError,
)
from mnrl_job.launch.fingerprint import Fingerprint
from mnrl_job.launch.nodes import Nodes
from mnrl_job.launch.run_identity import RunIdentity
from tests.servers.s3 import free_port

FINGERPRINT = Fingerprint(RunIdentity({"seed": 1}, {"train/pairs": "abc"}), {"torch": "2.13.0"}, 1)
TIMEOUTS = GroupTimeouts(node=2, join=20, hang=60, last_call=0.3)
IMPATIENT = GroupTimeouts(node=2, join=20, hang=1)
SECRET = "a secret"  # noqa: S105


def nothing():
    pass


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """A second is a twentieth."""
    monkeypatch.setattr(node_group, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(peer, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(coordinator, "SETTLING_SECONDS", 0.3)
    monkeypatch.setattr(store, "PAUSE_SECONDS", 0.05)


class Together:
    """Nodes of one run, each in a thread. `ended` says with what each of them did, None for well."""

    def __init__(self, count, least=None):
        self.port = free_port()
        self.sizes = least or count, count
        self.ended = {}
        self.threads = []
        self.rounds = []

    def start(self, rank, part=nothing, run_id="run", secret=SECRET, timeouts=TIMEOUTS):
        arguments = (rank, part, run_id, secret, timeouts)
        thread = threading.Thread(target=self._live, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def end(self):
        for thread in self.threads:
            thread.join(40)
        return [self.ended[rank] for rank in sorted(self.ended)]

    def _live(self, rank, part, run_id, secret, timeouts):
        nodes = Nodes(*self.sizes, rank, "localhost", self.port)
        group = None
        try:
            server = store.serve(self.port, timeouts.node, nothing) if rank == 0 else None
            connection = store.connect(("localhost", self.port), timeouts.node, timeouts.join, nothing)
            messages = SignedStore(connection, run_id, secret)
            joining = (PeerGroup if rank else HostGroup)(nodes, messages, timeouts, stands_still)
            joining.open(nothing)
            group = joining
            group.report(fingerprint=FINGERPRINT)
            self.rounds.append((rank, group.next_round(lambda: "step-7", nothing)))
            part() if part is nothing else part(group)
            group.report(has_trained=True)
            if server:
                group.publish()
            while not group.state.is_published:
                group.check()
                time.sleep(0.01)
            self.ended[rank] = None
        except Exception as error:
            failure = error if isinstance(error, JobError) else InternalError(str(error))
            self.ended[rank] = group.settle(failure) if group else failure
        finally:
            if group:
                group.close()


def stands_still():
    return ({"phase": "train", "heartbeats": 1, "step": 4, "total_steps": 9},)


def works(group):
    """As an agent does while its workers run."""
    for _ in range(1000):
        group.check()
        time.sleep(0.01)


def fails(failure):
    def part(_group):
        raise failure

    return part


def test_nodes_begin_together_from_the_checkpoint_that_node_0_names():
    together = Together(3)
    for rank in range(3):
        together.start(rank)
    assert together.end() == [None] * 3
    assert {(state.members, state.checkpoint) for _, state in together.rounds} == {((0, 1, 2), "step-7")}


def test_nodes_that_start_far_apart_still_meet():
    """Node 0 last: its store is waited for. Scaled: 700 of the 1,800 s that a join may take are 1.6 of 4."""
    together = Together(2)
    timeouts = GroupTimeouts(2, 4, 60, 0.3)
    together.start(1, timeouts=timeouts)
    time.sleep(1.6)
    together.start(0, timeouts=timeouts)
    assert together.end() == [None, None]


def test_a_node_0_that_never_comes_is_told():
    together = Together(2)
    together.start(1, timeouts=GroupTimeouts(1, 0.3, 60))
    (error,) = together.end()
    assert isinstance(error, HangTimeout)
    assert str(error).startswith(f"node 0 cannot be reached at localhost:{together.port} within 0.3 s")


@pytest.mark.parametrize("rank", [0, 2])
def test_only_the_node_that_failed_ends_with_its_cause(rank):
    together = Together(3)
    for node in range(3):
        together.start(node, fails(NotFound("no such file")) if node == rank else works)
    ended = together.end()
    assert str(ended.pop(rank)) == "no such file"
    assert {(type(error), str(error)) for error in ended} == {(PeerFailed, f"node {rank}: no such file")}


def test_a_request_to_stop_one_node_ends_all_with_75():
    together = Together(2)
    together.start(0, works)
    together.start(1, fails(Preempted("stopped on request")))
    assert [type(error) for error in together.end()] == [Preempted, Preempted]


def test_a_node_that_falls_silent_is_lost_within_its_time():
    together = Together(2)
    together.start(0, works)
    together.start(1, lambda group: group._closing.set() or time.sleep(5))
    began = time.monotonic()
    together.threads[0].join(20)
    assert str(together.ended[0]).startswith("node 1 is lost: no heartbeat for 2 s")
    assert time.monotonic() - began < 15


def test_a_node_0_that_falls_silent_ends_the_others_with_71():
    together = Together(2)
    together.start(0, lambda group: group._closing.set() or time.sleep(8))
    together.start(1, works)
    together.threads[1].join(20)
    assert str(together.ended[1]).startswith("node 0 is lost: no heartbeat for 2 s")


def test_workers_of_all_nodes_that_stand_still_are_a_hang_told_to_all():
    together = Together(2)
    for rank in range(2):
        together.start(rank, works, timeouts=IMPATIENT)
    ended = together.end()
    assert [type(error) for error in ended] == [HangTimeout, HangTimeout]
    assert "node 0 worker 0 stood at train" in str(ended[1])
    assert "node 1 worker 0 stood at train" in str(ended[0])


def test_one_node_whose_workers_get_on_is_enough_since_the_others_wait_for_them():
    together = Together(2)
    heartbeats = iter(range(10_000))

    def gets_on(group):
        group._heartbeats = lambda: ({"phase": "train", "heartbeats": next(heartbeats), "step": 4, "total_steps": 9},)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            group.check()
            time.sleep(0.01)

    together.start(0, gets_on, timeouts=IMPATIENT)
    together.start(1, gets_on, timeouts=IMPATIENT)
    assert together.end() == [None, None]


@pytest.mark.parametrize(("run_id", "secret"), [("other", SECRET), ("run", "guessed")])
def test_a_node_of_another_run_or_without_the_secret_is_refused_and_nobody_else_notices(run_id, secret):
    together = Together(2)
    together.start(0, lambda _group: time.sleep(1))
    stranger = Together(2)
    stranger.port = together.port
    stranger.start(1, run_id=run_id, secret=secret)
    (refused,) = stranger.end()
    assert isinstance(refused, SettingsError)
    assert "MNRL_GROUP_SECRET" in str(refused)
    together.start(1)
    assert together.end() == [None, None]


def test_a_stranger_that_writes_to_the_store_changes_nothing():
    together = Together(2)
    together.start(0, lambda _group: time.sleep(1.5))
    together.start(1, lambda _group: time.sleep(1.5))
    stranger = store.connect(("localhost", together.port), 5, 5, nothing)
    copied = ""
    for _ in range(20):
        stranger.set("node/1", copied or "junk")
        stranger.set("group", copied or '{"failure": 1}')
        time.sleep(0.05)
        copied = copied or stranger.get("node/1").decode()
    for said in (b"", b"\x16\x03\x01\n", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("localhost", together.port)) as connection:
            connection.sendall(said)
    assert together.end() == [None, None]


def test_a_second_process_with_the_number_of_a_node_is_left_out_while_the_first_lives():
    together = Together(2)
    for rank in range(2):
        together.start(rank, lambda _group: time.sleep(2))
    while len(together.rounds) < 2:
        time.sleep(0.05)
    double = Together(2)
    double.port = together.port
    double.start(1, timeouts=GroupTimeouts(node=2, join=0.5, hang=60))
    (refused,) = double.end()
    assert isinstance(refused, SettingsError)
    assert str(refused) == "another process is node 1 of this run, too; give each node its own MNRL_NODE_RANK"
    assert together.end() == [None, None]


def test_a_node_of_another_version_is_told():
    together = Together(2)
    together.start(0, works)
    connection = store.connect(("localhost", together.port), 5, 5, nothing)
    SignedStore(connection, "run", SECRET).write("node/1", {"node": 1, "hello": True})
    (error,) = together.end()
    assert isinstance(error, EnvironmentFailure)
    assert str(error) == "node 1 runs another mnrl-job than node 0; run the same image on all nodes"


def test_an_elastic_run_begins_another_round_when_a_node_is_lost_and_when_one_joins():
    together = Together(3, least=2)
    patient = GroupTimeouts(node=2, join=20, hang=60, last_call=3)  # all three are to begin, however busy the machine

    def until_the_third_round(group):
        while group.round < 3:
            group.check()
            if group.is_changing():
                together.rounds.append((group.nodes.rank, group.next_round(lambda: "step-9", nothing)))
            time.sleep(0.01)

    together.start(0, until_the_third_round, timeouts=patient)
    together.start(1, until_the_third_round, timeouts=patient)
    together.start(2, lambda group: group._closing.set(), timeouts=patient)
    while not any(state.round == 2 for _, state in together.rounds):
        time.sleep(0.05)
    together.start(2, until_the_third_round, timeouts=patient)
    for thread in together.threads:
        thread.join(30)
    members = {state.round: state.members for _, state in together.rounds}
    assert members == {1: (0, 1, 2), 2: (0, 1), 3: (0, 1, 2)}
    assert together.ended[0] is together.ended[1] is None


def test_a_message_moved_to_another_key_or_run_is_not_signed():
    shared = dist.HashStore()
    SignedStore(shared, "run", SECRET).write("node/1", {"a": 1})
    assert SignedStore(shared, "run", SECRET).read("node/1") == {"a": 1}
    assert SignedStore(shared, "run", SECRET).read("node/2") is None
    shared.set("node/2", shared.get("node/1").decode())
    for run_id, key in (("run", "node/2"), ("other", "node/1")):
        with pytest.raises(SignatureError):
            SignedStore(shared, run_id, SECRET).read(key)


def test_a_port_that_the_attempt_before_still_holds_is_waited_for():
    port = free_port()
    taken = socket.create_server(("", port))
    threading.Timer(0.5, taken.close).start()
    served = store.serve(port, 5, nothing)
    served.set("a", "b")
    other = dist.TCPStore("localhost", port, wait_for_workers=False, timeout=timedelta(seconds=5))
    assert other.get("a") == b"b"


def test_a_port_that_stays_taken_may_be_free_the_next_time(monkeypatch):
    monkeypatch.setattr(store, "PORT_SECONDS", 0.1)
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HangTimeout, match=rf"^MNRL_MASTER_ADDR: node 0 .*\b{port}\b"):
            store.serve(port, 5, nothing)
