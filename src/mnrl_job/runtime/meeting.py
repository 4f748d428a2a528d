"""The supervisors of several nodes: they agree on what they do, watch over one another, and end with one cause.

Every node holds a line to node 0 and says every second that it is still there. What goes wrong anywhere is told to
node 0, which chooses the cause and tells it to all.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from mnrl_job.errors import Hang, InternalError, JobError, SettingsError, by_kind
from mnrl_job.runtime.agreement import Facts, compare
from mnrl_job.runtime.logs import log, warn
from mnrl_job.runtime.nodes import Nodes
from mnrl_job.runtime.secrets import redact
from mnrl_job.runtime.wire import Line, Message, listen

PAUSE_SECONDS = 1.0
KNOCK_SECONDS = 5.0
# For the attempt before to leave the port: as long as the manifests give it to end.
PORT_SECONDS = 120.0
BEAT_SECONDS = 1.0
# For others to join, and to tell what they know: a failure that explains itself has consequences that do not.
TALK_SECONDS = 5.0
CLOSE_SECONDS = 2.0
AGAIN = "start all nodes again"


@contextmanager
def meeting(nodes: Nodes, run_id: str, timeout: float, patience: float) -> Iterator["Meeting"]:
    """Be there for the other nodes, and end as they do: node 0 by telling how, the others by being told.

    Args:
        nodes: who takes part; a node alone meets nobody.
        run_id: must be the same on all.
        timeout: a node without a sign of life for so many seconds is lost.
        patience: how many seconds to wait for nodes that have not come yet.

    Raises:
        JobError: what ended the run on whichever node.
    """
    met = Meeting(nodes, run_id, timeout, patience)
    try:
        if nodes.max_nodes > 1:
            met.open()
        yield met
        if nodes.is_first:
            met.say(published=True)
    except Exception as error:
        failure = error if isinstance(error, JobError) else InternalError(f"{type(error).__name__}: {error}")
        cause = met.settle(failure)
        if cause is failure:
            raise
        raise cause from error
    finally:
        met.close()


class Meeting:
    """A node's part of a meeting."""

    def __init__(self, nodes: Nodes, run_id: str, timeout: float, patience: float) -> None:
        self.nodes = nodes
        self._run_id = run_id
        self._timeout = timeout
        self._latest = time.monotonic() + patience
        self._lines: dict[int, Line] = {}
        self._heard: dict[tuple[int, str], Any] = {}
        self._told: dict[int, JobError] = {}  # what other nodes failed with, the first heard first
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def open(self) -> None:
        """Wait for the name of the first node; then it listens, and the others knock."""
        self._wait_for_name()
        if self.nodes.is_first:
            self._listener = listen(self.nodes.port + 1, PORT_SECONDS)
            self._start(self._welcome, self._listener)
        else:
            self._start(self._knock)
        self._start(self._beat)

    def agree(self, facts: Facts) -> None:
        """Return once all nodes are found to be about to do the same.

        Raises:
            JobError: they are not; or another node failed or is lost.
        """
        if self.nodes.is_first:
            if missing := [node for node in range(1, self.nodes.max_nodes) if node not in self._lines]:
                log(f"waiting for node {', '.join(map(str, missing))}")
            for node in range(1, self.nodes.max_nodes):
                if error := compare(facts, self._hear_of(node, "facts"), node):
                    raise error
            self.say(agreed=True)
        else:
            self._hear_of(0, "welcome")
            self.say(facts=asdict(facts))
            self._hear_of(0, "agreed")
        if self.nodes.max_nodes > 1:
            log(f"node {self.nodes.rank} of {self.nodes.max_nodes}: all have the same settings, data and versions")

    def check(self) -> None:
        """To be called while waiting for something else.

        Raises:
            JobError: another node failed or is lost.
        """
        with self._changed:
            if self._told:
                raise next(iter(self._told.values()))

    def wait_for_first(self) -> None:
        """Return once node 0 has published.

        Raises:
            JobError: it failed or is lost.
        """
        log("the part of this node is done; node 0 reports and publishes")
        self._hear_of(0, "published")

    def say(self, **message: Any) -> None:
        """Tell every node there is a line to."""
        for line in self._known():
            line.say(message)

    def settle(self, failure: JobError) -> JobError:
        """With what all nodes end, where this one failed or was told that another did."""
        if self.nodes.is_first:
            failure = self._cause(failure)
            self.say(failed=_described(0, failure))
            return failure
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._told, TALK_SECONDS)
        if not self._told:
            self.say(failed=_described(self.nodes.rank, failure))
        with self._changed:
            self._changed.wait_for(lambda: self._told or not self._lines, TALK_SECONDS)
            return self._told.get(0, failure)

    def close(self) -> None:
        """Hang up, once the others have heard everything."""
        self._closing.set()
        if self._listener:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for others to come
            self._listener.close()
        for line in self._known():
            line.finish()
        latest = time.monotonic() + CLOSE_SECONDS
        for thread in list(self._threads):
            thread.join(max(0.0, latest - time.monotonic()))

    def _known(self) -> list[Line]:
        with self._changed:
            return list(self._lines.values())

    def _cause(self, failure: JobError) -> JobError:
        """Of what went wrong on all nodes: the first that explains itself."""
        others = self.nodes.max_nodes - 1
        with self._changed:
            self._changed.wait_for(lambda: len(self._lines) == others, TALK_SECONDS)
            if not _explains(failure):
                self._changed.wait_for(
                    lambda: len(self._told) == others or any(map(_explains, self._told.values())), TALK_SECONDS
                )
            return next(filter(_explains, [failure, *self._told.values()]), failure)

    def _wait_for_name(self) -> None:
        said = False
        while True:
            try:
                socket.getaddrinfo(self.nodes.master_addr, self.nodes.port)
                return
            except OSError as error:
                if time.monotonic() > self._latest:
                    raise Hang(
                        f"the name of node 0, {self.nodes.master_addr}, is not known here: {error}; {AGAIN}"
                    ) from None
                if not said:
                    log(f"waiting for the name of node 0, {self.nodes.master_addr}: {error}")
                said = True
            time.sleep(PAUSE_SECONDS)

    def _hear_of(self, node: int, what: str) -> Any:
        """What a node said; waits for it as long as the node is there, and for the node as long as is reasonable."""
        with self._changed:
            while (node, what) not in self._heard:
                self.check()
                if node not in self._lines and time.monotonic() > self._latest:
                    raise Hang(f"node {node} did not come; {AGAIN}")
                self._changed.wait(PAUSE_SECONDS)
            return self._heard[node, what]

    def _start(self, task: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=task, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _welcome(self, listener: socket.socket) -> None:
        with suppress(OSError):  # it is closed in the end
            while True:
                self._start(self._admit, listener.accept()[0])

    def _admit(self, connection: socket.socket) -> None:
        """Hear who it is. One who is there already is left to knock again: it outlived its node's last attempt."""
        line = Line(connection, KNOCK_SECONDS)
        with suppress(OSError, ValueError, KeyError, TypeError):
            hello = line.hear()
            node = int(hello["node"])
            theirs, ours = (
                f"{hello['run']} on {hello['nodes']} nodes",
                f"{self._run_id} on {self.nodes.max_nodes} nodes",
            )
            if theirs != ours:
                refusal = SettingsError(
                    f"node {node} is to run {theirs}, node 0 {ours}; give all nodes the same settings"
                )
                warn(str(refusal))
                line.say({"failed": _described(0, refusal)})
                return
            with self._changed:
                if node in self._lines or not 0 < node < self.nodes.max_nodes:
                    return
                self._lines[node] = line
            line.say({"welcome": True})
            self._follow(node, line)

    def _knock(self) -> None:
        """Reach node 0, which may be yet to come, or still busy ending the attempt before."""
        hello = {"run": self._run_id, "node": self.nodes.rank, "nodes": self.nodes.max_nodes}
        place = (self.nodes.master_addr, self.nodes.port + 1)
        said = False
        while not self._closing.is_set() and time.monotonic() < self._latest:
            try:
                line = Line(socket.create_connection(place, KNOCK_SECONDS), KNOCK_SECONDS)
                line.say(hello)
                answer = line.hear()
            except (OSError, ValueError) as error:
                if not said:
                    log(f"waiting for node 0 at {place[0]}:{place[1]}: {error}")
                said = True
                self._closing.wait(PAUSE_SECONDS)
                continue
            with self._changed:
                self._lines[0] = line
            self._note(0, answer)
            self._follow(0, line)
            return

    def _follow(self, node: int, line: Line) -> None:
        """Take in what a node says until it falls silent."""
        line.patience(self._timeout)
        try:
            while True:
                self._note(node, line.hear())
        except TimeoutError:
            reason = f"no sign of life for {self._timeout:g} s"
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error)
        with self._changed:
            if not self._closing.is_set():
                self._told.setdefault(node, Hang(f"node {node} is lost: {reason}; {AGAIN}"))
            self._changed.notify_all()

    def _note(self, node: int, message: Message) -> None:
        with self._changed:
            if failed := message.pop("failed", None):
                self._told.setdefault(node, by_kind(**failed))
            self._heard |= {(node, what): value for what, value in message.items()}
            self._changed.notify_all()

    def _beat(self) -> None:
        while not self._closing.wait(min(BEAT_SECONDS, self._timeout / 4)):
            self.say()


def _explains(failure: JobError) -> bool:
    """A fault with a traceback may be but a connection that broke, because of what happened on another node."""
    return not (isinstance(failure, InternalError) and failure.trace)


def _described(node: int, failure: JobError) -> Message:
    """A failure as it is told, with the node it happened on."""
    text = redact(str(failure))
    trace = redact(failure.trace) if isinstance(failure, InternalError) else ""
    return {
        "kind": failure.kind,
        "message": text if text.startswith("node ") else f"node {node}: {text}",
        "trace": trace,
    }
