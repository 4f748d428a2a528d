"""Processes that do not belong to a run cannot affect it: of other runs, without the secret, or with a taken rank."""

import socket
import time

import pytest
import torch.distributed as dist

from mnrl_job.agent import store
from mnrl_job.agent.messages import GroupTimeouts
from mnrl_job.agent.signed_store import SignatureError, SignedStore
from mnrl_job.errors import EnvironmentFailure, SettingsError
from tests.agent.node_threads import SECRET, NodeThreads, do_nothing, run_until_stopped

pytestmark = pytest.mark.usefixtures("short_waits")


def train_for(seconds):
    return lambda _group: time.sleep(seconds)


@pytest.mark.parametrize(("run_id", "secret"), [("other", SECRET), ("run", "guessed")])
def test_a_node_of_another_run_or_without_the_secret_is_rejected_without_effect_on_the_others(run_id, secret):
    nodes = NodeThreads(2)
    nodes.start(0, train_for(1))
    outsider = NodeThreads(2, port=nodes.port)
    outsider.start(1, run_id=run_id, secret=secret)
    (error,) = outsider.join()
    assert isinstance(error, SettingsError)
    assert "MNRL_GROUP_SECRET" in str(error)
    nodes.start(1)
    assert nodes.join() == [None, None]


def test_unsigned_messages_in_the_store_are_ignored():
    nodes = NodeThreads(2)
    nodes.start(0, train_for(1.5))
    nodes.start(1, train_for(1.5))
    outsider = store.connect(("localhost", nodes.port), 5, 5, do_nothing)
    copied = ""
    for _ in range(20):
        outsider.set("node/1", copied or "junk")
        outsider.set("group", copied or '{"failure": 1}')
        time.sleep(0.05)
        copied = copied or outsider.get("node/1").decode()
    for request in (b"", b"\x16\x03\x01\n", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("localhost", nodes.port)) as connection:
            connection.sendall(request)
    assert nodes.join() == [None, None]


def test_a_second_process_with_the_rank_of_a_running_node_is_rejected():
    nodes = NodeThreads(2)
    for rank in range(2):
        nodes.start(rank, train_for(2))
    while len(nodes.rounds) < 2:
        time.sleep(0.05)
    duplicate = NodeThreads(2, port=nodes.port)
    duplicate.start(1, timeouts=GroupTimeouts(node=2, join=0.5, hang=60))
    (error,) = duplicate.join()
    assert isinstance(error, SettingsError)
    assert str(error) == "another process has the rank of node 1; give each node its own MNRL_NODE_RANK"
    assert nodes.join() == [None, None]


def test_a_node_of_another_version_is_named():
    nodes = NodeThreads(2)
    nodes.start(0, run_until_stopped)
    connection = store.connect(("localhost", nodes.port), 5, 5, do_nothing)
    SignedStore(connection, "run", SECRET).write("node/1", {"node": 1, "hello": True})
    (error,) = nodes.join()
    assert isinstance(error, EnvironmentFailure)
    assert str(error) == "node 1 runs a different version of mnrl-job than node 0; run the same image on all nodes"


def test_a_message_copied_to_another_key_or_run_has_no_valid_signature():
    shared = dist.HashStore()
    SignedStore(shared, "run", SECRET).write("node/1", {"a": 1})
    assert SignedStore(shared, "run", SECRET).read("node/1") == {"a": 1}
    assert SignedStore(shared, "run", SECRET).read("node/2") is None
    shared.set("node/2", shared.get("node/1").decode())
    for run_id, key in (("run", "node/2"), ("other", "node/1")):
        with pytest.raises(SignatureError):
            SignedStore(shared, run_id, SECRET).read(key)
