"""A proxy between client and server that spoils what passes: a plan says which requests, and how."""

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers.s3 import Server, environment_for

ANSWERS = {
    400: ("ExpiredToken", "The provided token has expired."),
    403: ("AccessDenied", "Access Denied"),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}


@dataclass
class Fault:
    """What happens to requests whose `METHOD /path?query` (then ` bytes=…` of a range) matches `where`, `times` times.

    Kinds: `reset` before the server sees the request; `lose` the answer after the server acted; `delay` by `seconds`;
    answer with `status`; `truncate` the body of the answer; `corrupt` a byte of the answer, or of the body of a PUT;
    `crawl`: the answer's body comes a byte each `seconds`.
    """

    kind: str
    where: str = ".*"
    times: int = 1
    status: int = 500
    seconds: float = 0.0


@dataclass
class Proxy:
    """A running proxy. `seen` lists the requests that arrived, `faults` is the plan and may be changed any time."""

    port: int
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        return environment_for(f"http://127.0.0.1:{self.port}")

    def fault_for(self, request: str) -> Fault | None:
        with self.guard:
            self.seen.append(request)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.where, request):
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def proxied(server: Server, *faults: Fault) -> Iterator[Proxy]:
    """Run a proxy in front of a server."""
    listener = Listener(("127.0.0.1", 0), Handler)
    listener.upstream = server.port
    listener.proxy = proxy = Proxy(listener.server_port, list(faults))
    threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        listener.server_close()


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    upstream: int
    proxy: Proxy

    def handle_error(self, *_: Any) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {self.path} {self.headers.get('Range', '')}".rstrip()
        fault = self.server.proxy.fault_for(request) or Fault("")
        if fault.kind == "delay":
            time.sleep(fault.seconds)
        if fault.kind == "reset":
            self.cut()
        elif fault.kind == "status":
            self.answer(fault.status)
        else:
            response, content = self.ask(flipped(body) if fault.kind == "corrupt" else body)
            if fault.kind == "lose":
                self.cut()
            else:
                self.relay(response, content, fault)

    def ask(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        upstream.request(self.command, self.path, body, headers)
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        return response, content

    def relay(self, response: http.client.HTTPResponse, content: bytes, fault: Fault) -> None:
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        told = response.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", told or str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.kind == "truncate":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.cut()
        elif fault.kind == "crawl":
            for index in range(len(content)):
                self.wfile.write(content[index : index + 1])
                time.sleep(fault.seconds)
        else:
            self.wfile.write(flipped(content) if fault.kind == "corrupt" and self.command == "GET" else content)

    def answer(self, status: int) -> None:
        code, message = ANSWERS[status]
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def cut(self) -> None:
        """Reset the connection: no FIN, so that what was sent may be lost too."""
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815 - http.server's names


def flipped(content: bytes) -> bytes:
    """The same with one bit of its middle byte the other way round."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else content
