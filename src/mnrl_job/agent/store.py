"""Torch's key-value store for messages between nodes: node 0 serves it, all nodes connect to it."""

import errno
import socket
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from mnrl_job.errors import HangTimeout, SettingsError
from mnrl_job.system.logs import log

RETRY_SECONDS = 0.5
CONNECT_SECONDS = 5.0
# For the attempt before to release the port; the termination grace period of the manifests.
PORT_SECONDS = 120.0


def serve(port: int, timeout: float, check: Callable[[], None]) -> dist.TCPStore:
    """Serve the store on all addresses of this machine. `timeout` of requests is in seconds.

    While the port is in use, for instance by the attempt before, `check` is called; it raises to stop.

    Raises:
        HangTimeout: the port stays in use.
        SettingsError: this user may not listen on the port.
    """
    deadline = time.monotonic() + PORT_SECONDS
    while True:
        try:
            listener = _listen(port)
            break
        except OSError as error:
            message = f"MNRL_MASTER_ADDR: node 0 cannot listen on port {port}: {error}"
            if error.errno != errno.EADDRINUSE:
                raise SettingsError(f"{message}; use another port") from error
            if time.monotonic() > deadline:
                raise HangTimeout(
                    f"{message}; start again once the process that uses it has exited, or use another port"
                ) from error
        check()
        time.sleep(RETRY_SECONDS)
    return dist.TCPStore(
        "localhost",
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout),
        master_listen_fd=listener.detach(),
    )


def connect(address: tuple[str, int], timeout: float, join_timeout: float, check: Callable[[], None]) -> dist.TCPStore:
    """Connect to the store of node 0, which may not have started yet. Times are in seconds, `timeout` is of requests.

    While waiting, `check` is called, which raises to stop.

    Raises:
        HangTimeout: node 0 cannot be reached.
    """
    host, port = address
    deadline = time.monotonic() + join_timeout
    is_logged = False
    while True:
        try:
            socket.create_connection(address, CONNECT_SECONDS).close()
            return dist.TCPStore(host, port, wait_for_workers=False, timeout=timedelta(seconds=timeout))
        except (OSError, RuntimeError) as error:  # torch's errors are RuntimeErrors
            if time.monotonic() > deadline:
                where = f"{host}:{port} within {join_timeout:g} s (MNRL_JOIN_TIMEOUT)"
                raise HangTimeout(f"node 0 cannot be reached at {where}: {error}; start all nodes again") from error
            if not is_logged:
                log(f"waiting for node 0 at {host}:{port}: {error}")
                is_logged = True
        check()
        time.sleep(RETRY_SECONDS)


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
