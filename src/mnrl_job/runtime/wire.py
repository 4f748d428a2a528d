"""What supervisors of several nodes say to one another: JSON objects, one a line of text, over TCP."""

import errno
import json
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from mnrl_job.errors import Hang, SettingsError
from mnrl_job.json_text import dumps

LONGEST_MESSAGE = 1 << 24
PAUSE_SECONDS = 0.5

Message = dict[str, Any]


class Line:
    """The connection to one node."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        connection.settimeout(timeout)
        self._connection = connection
        self._reader = connection.makefile("rb")
        self._guard = threading.Lock()

    def patience(self, seconds: float) -> None:
        """How long to wait for the next message."""
        self._connection.settimeout(seconds)

    def say(self, message: Message) -> None:
        """Whether anybody listens is found out by hearing."""
        with self._guard, suppress(OSError):
            self._connection.sendall(dumps(message).encode() + b"\n")

    def hear(self) -> Message:
        """The next message.

        Raises:
            TimeoutError: none came in time.
            OSError: the line is broken.
            ValueError: it speaks another language.
        """
        text = self._reader.readline(LONGEST_MESSAGE)
        if not text.endswith(b"\n"):
            raise ConnectionError("it hung up")
        with suppress(ValueError):
            message = json.loads(text)
            if isinstance(message, dict):
                return message
        raise ValueError("it speaks another language")

    def finish(self) -> None:
        """Say no more. What was said still arrives, which closing at once would not promise."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)


def listen(port: int, patience: float) -> socket.socket:
    """Be there on a port, at all addresses of this machine.

    Args:
        port: its number.
        patience: for so many seconds it may be taken, as by the attempt before, which is still ending.

    Raises:
        Hang: it stays taken.
        SettingsError: this user may not listen there.
    """
    latest = time.monotonic() + patience
    while True:
        try:
            return _server(port)
        except OSError as error:
            told = f"MNRL_MASTER_ADDR: node 0 cannot listen on port {port}: {error}"
            if error.errno != errno.EADDRINUSE:
                raise SettingsError(f"{told}; name another port") from error
            if time.monotonic() > latest:
                raise Hang(f"{told}; start again once whoever holds it has ended, or name another port") from error
        time.sleep(PAUSE_SECONDS)


def _server(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
