"""Supervisors that meet over real sockets: they agree, or all end with the same cause."""

import socket
import threading
import time
from dataclasses import replace

import pytest

from mnrl_job import cli
from mnrl_job.errors import (
    DataError,
    DeviceError,
    GateError,
    Hang,
    InternalError,
    JobError,
    MemoryLimit,
    MissingError,
    Preempted,
    SettingsError,
)
from mnrl_job.runtime import meeting as module
from mnrl_job.runtime.agreement import Facts
from mnrl_job.runtime.meeting import Meeting, meeting
from mnrl_job.runtime.nodes import Nodes
from mnrl_job.runtime.wire import Line
from tests.servers.s3 import free_port

FACTS = Facts({"seed": 1}, {"train/pairs": "abc", "batches": "plan"}, {"torch": "2.13.0"}, 1, None)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Seconds are tenths."""
    for name in ("PAUSE_SECONDS", "TALK_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(module, name, getattr(module, name) / 10)


@pytest.fixture
def gather():
    """Let each node do its part; what each of them ended with, None for success."""

    def together(*parts, run_id="run", patience=10.0, late=0.0):
        port = free_port()
        ended = {}

        def one(rank, part):
            time.sleep(0 if rank else late)
            try:
                nodes = Nodes(len(parts), len(parts), rank, "127.0.0.1", port - 1)
                with meeting(nodes, run_id if isinstance(run_id, str) else run_id[rank], 5.0, patience) as others:
                    part(others)
            except JobError as error:
                ended[rank] = error

        threads = [threading.Thread(target=one, args=(rank, part)) for rank, part in enumerate(parts) if part]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return [ended.get(rank) for rank in range(len(parts))]

    return together


def part(facts=FACTS, failure=None):
    """Agree, then train, then wait for node 0; or fail."""

    def do(others):
        others.agree(facts)
        if failure:
            raise failure
        if others.nodes.is_first:
            work(others, 0.3)
        else:
            others.wait_for_first()

    return do


def work(others, seconds):
    """As the launcher does while workers train."""
    latest = time.monotonic() + seconds
    while time.monotonic() < latest:
        others.check()
        time.sleep(0.01)


def fail_at_once(failure):
    def do(_others):
        raise failure

    return do


def test_nodes_that_agree_end_well(gather):
    assert gather(part(), part(), part()) == [None, None, None]


def test_a_node_alone_meets_nobody(gather):
    assert gather(part()) == [None]


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"settings": {"seed": 2}}, SettingsError, "node 1 has MNRL_SEED=2, node 0 has 1; give all nodes"),
        ({"inputs": {"train/pairs": "xyz"}}, DataError, "node 1 reads other data for train/pairs than node 0 (SHA-256"),
        (
            {"inputs": {"train/pairs": "abc", "batches": "other"}},
            DataError,
            "node 1 has made another batch plan than node 0",
        ),
        ({"versions": {"torch": "2.12.0"}}, DeviceError, "node 1 has torch 2.12.0, node 0 has 2.13.0; run the same"),
        ({"workers": 2}, SettingsError, "node 1 has 2 worker(s), node 0 has 1; give all nodes the same devices"),
        ({"resume": "step-5"}, Hang, "node 1 would go on from step-5, node 0 from the beginning; let all nodes reach"),
    ],
    ids=["settings", "data", "plan", "versions", "workers", "checkpoint"],
)
def test_nodes_that_differ_all_end_with_one_line_that_says_in_what(gather, change, kind, said):
    ended = gather(part(), part(replace(FACTS, **change)), part())
    assert {type(error) for error in ended} == {kind}
    assert len({str(error) for error in ended}) == 1
    assert str(ended[0]).startswith(said)


def test_a_node_of_another_program_is_refused(gather):
    def strange(others):
        others._hear_of(0, "welcome")
        others.say(facts={"settings": {}, "more": 1})
        others._hear_of(0, "agreed")

    ended = gather(part(), strange)
    assert [type(error) for error in ended] == [DeviceError, DeviceError]


def test_a_node_of_another_run_is_told_so_and_the_first_waits_on(gather):
    ended = gather(part(), part(), run_id=["a", "b"], patience=1.0)
    assert str(ended[1]) == "node 1 is to run b on 2 nodes, node 0 a on 2 nodes; give all nodes the same settings"
    assert str(ended[0]) == "node 1 did not come; start all nodes again"


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("failure", [MissingError("no such file"), Preempted("asked"), InternalError("a fault")])
def test_what_ends_one_node_ends_all_with_its_code(gather, rank, failure):
    def alive(others):
        others.agree(FACTS)
        work(others, 20)

    parts = [alive, alive, alive]
    parts[rank] = part(failure=failure)
    ended = gather(*parts)
    assert {error.code for error in ended} == {failure.code}
    assert all(str(failure) in str(error) for error in ended)


def test_a_run_below_the_gate_ends_all_nodes_with_its_code_and_no_traceback(gather):
    def first(others):
        others.agree(FACTS)
        raise GateError("the gate: it fell", {"evaluation": {"faq": {}}})

    ended = gather(first, part(), part())
    assert [(error.code, error.kind, error.retry_helps) for error in ended] == [(80, "gate", False)] * 3
    assert [cli.fail(error) for error in ended[1:]] == [80, 80]


def test_one_that_fails_before_the_others_agree_ends_them_too(gather):
    ended = gather(part(), fail_at_once(MissingError("no such file")), part())
    assert [str(error) for error in ended] == ["node 1: no such file"] * 3


@pytest.mark.parametrize("cause", [MemoryLimit("out of memory"), InternalError("worker 0 was killed by SIGKILL")])
def test_the_cause_is_the_failure_that_explains_itself_not_its_consequences(gather, cause):
    def broken(others):
        others.agree(FACTS)
        raise InternalError("connection closed by peer", "Traceback")

    def first(others):
        others.agree(FACTS)
        time.sleep(0.2)
        raise cause

    ended = gather(broken, broken, first)
    assert {(type(error), str(error)) for error in ended} == {(type(cause), f"node 2: {cause}")}


def test_a_fault_that_nobody_explains_is_told_with_its_traceback(gather):
    ended = gather(part(), part(failure=InternalError("a fault", "Traceback")))
    assert [(str(error), error.trace) for error in ended] == [("node 1: a fault", "Traceback")] * 2


def joins(port, then, node=1):
    """A node 1 that says hello to node 0, and then what else."""
    for _ in range(200):
        try:
            line = Line(socket.create_connection(("127.0.0.1", port)), 10)
            break
        except OSError:
            time.sleep(0.02)
    line.say({"run": "run", "node": node, "nodes": 2})
    line.hear()
    then(line)


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (lambda _: time.sleep(2), r".*\b1 s\b"),
        (lambda line: line.finish(), "it hung up"),
        (lambda line: line._connection.sendall(b"GET / HTTP/1.1\r\n"), "it speaks another language"),
    ],
    ids=["silent", "gone", "strange"],
)
def test_a_lost_node_ends_the_others_within_its_time(then, reason):
    port = free_port()
    peer = threading.Thread(target=joins, args=(port, then), daemon=True)
    peer.start()
    began = time.monotonic()
    with (
        pytest.raises(Hang, match=f"^node 1 .*{reason}"),
        meeting(Nodes(2, 2, 0, "127.0.0.1", port - 1), "run", 1.0, 10.0) as others,
    ):
        others.agree(FACTS)
    assert time.monotonic() - began < 20
    peer.join(5)


def test_strangers_do_not_disturb_a_meeting(gather, monkeypatch):
    opened = module.listen

    def listen(port, patience):
        listener = opened(port, patience)
        for said in (b"", b"\x16\x03\x01\n", b'{"node": 7}\n', b"[]\n"):
            socket.create_connection(("127.0.0.1", port)).sendall(said)
        return listener

    monkeypatch.setattr(module, "listen", listen)
    assert gather(part(), part()) == [None, None]


def test_a_node_waits_for_the_first_to_come_but_not_for_ever(gather):
    assert gather(part(), part(), late=0.5) == [None, None]
    (_, ended) = gather(None, part(), patience=0.3)
    assert isinstance(ended, Hang)
    assert str(ended) == "node 0 did not come; start all nodes again"


def test_a_node_that_outlived_its_attempt_is_not_joined_again(gather):
    """The next attempt knocks until node 0 has ended the one before."""

    def replaced(others):
        others._hear_of(0, "welcome")
        second = Meeting(others.nodes, "run", 5.0, 0.4)
        second.open()
        with pytest.raises(Hang, match=r"^node 0 "):
            second._hear_of(0, "welcome")
        second.close()
        part()(others)

    assert gather(part(), replaced) == [None, None]


def test_nodes_wait_for_the_name_of_the_first(gather, monkeypatch):
    known, asked = socket.getaddrinfo, []

    def answer(*arguments, **options):
        asked.append(arguments)
        if len(asked) < 4:
            raise socket.gaierror(-2, "Name or service not known")
        return known(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert gather(part(), part()) == [None, None]


def test_a_name_that_never_comes_is_told():
    with (
        pytest.raises(Hang, match=r"node 0, no-such\.invalid, "),
        meeting(Nodes(2, 2, 1, "no-such.invalid", 29700), "run", 5.0, patience=0.2),
    ):
        raise AssertionError


def test_a_port_that_the_attempt_before_still_holds_is_waited_for(gather, monkeypatch):
    ports = []
    opened = module.listen

    def listen(port, patience):
        ports.append(port)
        taken = socket.create_server(("127.0.0.1", port))
        threading.Timer(0.8, taken.close).start()
        return opened(port, patience)

    monkeypatch.setattr(module, "listen", listen)
    assert gather(part(), part()) == [None, None]
    assert len(ports) == 1


def test_a_port_that_stays_taken_may_be_free_the_next_time(monkeypatch):
    monkeypatch.setattr(module, "PORT_SECONDS", 0.1)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(Hang, match=rf"^MNRL_MASTER_ADDR: node 0 .*\b{port}\b"),
            meeting(Nodes(2, 2, 0, "127.0.0.1", port - 1), "run", 5.0, 10.0),
        ):
            raise AssertionError
