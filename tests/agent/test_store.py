"""The port of node 0's store, which the attempt before may still use."""

import socket
import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from mnrl_job.agent import store
from mnrl_job.errors import HangTimeout
from tests.agent.node_threads import do_nothing
from tests.servers.s3 import free_port


@pytest.mark.usefixtures("short_waits")
def test_a_port_in_use_is_waited_for():
    port = free_port()
    listener = socket.create_server(("", port))
    threading.Timer(0.5, listener.close).start()
    server = store.serve(port, 5, do_nothing)
    server.set("a", "b")
    client = dist.TCPStore("localhost", port, wait_for_workers=False, timeout=timedelta(seconds=5))
    assert client.get("a") == b"b"


def test_a_port_that_stays_in_use_is_an_error_that_a_retry_may_fix(monkeypatch):
    monkeypatch.setattr(store, "PORT_SECONDS", 0.1)
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(HangTimeout, match=rf"^MNRL_MASTER_ADDR: node 0 .*\b{port}\b"):
            store.serve(port, 5, do_nothing)
