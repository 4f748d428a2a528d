"""The nodes of a run: each reports to node 0 and receives the state of the group.

Every node reports about once a second, in a separate thread and connection, so that a lost node is detected whatever
its workers are blocked in, even if its network cable was pulled.
"""

import secrets
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mnrl_job.agent.messages import GroupState, GroupTimeouts, NodeFailure, NodeReport, as_error, describe
from mnrl_job.agent.signed_store import SignedStore
from mnrl_job.errors import HangTimeout, InternalError, JobError, first_line
from mnrl_job.launch.nodes import Nodes

HEARTBEAT_SECONDS = 1.0
POLL_SECONDS = 0.05
# For the other nodes to report what they know, and to receive how the run ended.
CLOSING_SECONDS = 5.0
# Keys of the messages from node 0 to all, and from each node to node 0.
GROUP, NODE = "group", "node/{}"

Heartbeats = tuple[dict[str, Any], ...]


class NodeGroup(ABC):
    """The nodes of a run, as one of them sees them. `state` is the last one received from node 0.

    `heartbeats` returns the last ones of this node's workers.
    """

    def __init__(
        self, nodes: Nodes, messages: SignedStore, timeouts: GroupTimeouts, heartbeats: Callable[[], Heartbeats]
    ) -> None:
        self.nodes = nodes
        self.state = GroupState("")
        self._messages = messages
        self._timeouts = timeouts
        self._heartbeats = heartbeats
        self._report = NodeReport(nodes.rank, secrets.token_hex(16), nodes=str(nodes))
        self._lost: JobError | None = None
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def round(self) -> int:
        """The last round that this node has started."""
        return self._report.round

    def open(self, check: Callable[[], None]) -> None:
        """Start to report and to receive. `check` is called while the rank is not free yet; it raises to stop."""
        self._thread.start()

    def report(self, **changes: Any) -> None:
        """Report changes to node 0, see `NodeReport`."""
        with self._lock:
            self._report = replace(self._report, **changes)
        self._wake.set()

    def check(self) -> None:
        """Return while the run continues.

        Raises:
            JobError: the failure that this node exits with.
        """
        with self._lock:
            state, lost = self.state, self._find_lost()
        if state.failure:
            raise as_error(state.failure)
        if refusal := state.refused.get(self.nodes.rank):
            raise as_error(replace(refusal, for_all_nodes=True))
        if lost and not state.is_published:
            raise lost

    def is_broken(self) -> bool:
        """Whether this node's workers cannot continue, since another node is lost."""
        return self.state.is_broken and self.state.round == self.round

    def is_resizing(self) -> bool:
        """Whether this node's workers must save a checkpoint and exit, since nodes join or leave."""
        return self.state.is_resizing and self.state.round == self.round

    def is_changing(self) -> bool:
        """Whether this node's workers must exit for the next round."""
        return self.is_broken() or self.is_resizing()

    def is_hung(self) -> bool:
        """Whether the run ends since no worker of any node made progress."""
        return self.state.failure is not None and self.state.failure.dumps_stacks

    def next_round(self, find_checkpoint: Callable[[], str | None], poll: Callable[[], None]) -> GroupState:
        """Wait for the next round of workers, calling `poll`, which raises to stop.

        Before each round node 0 calls `find_checkpoint`, which returns the name of the newest one.

        Raises:
            JobError: the failure that this node exits with.
        """
        self.report(is_waiting=True)
        while True:
            self.check()
            poll()
            state = self.state
            if state.round > self.round and self.nodes.rank in state.members:
                self.report(is_waiting=False, round=state.round)
                return state
            self._start_round_if_ready(find_checkpoint)
            time.sleep(POLL_SECONDS)

    def resolve_root_cause(self, failure: JobError) -> JobError:
        """The failure that this node exits with: its own, or the root cause on another node."""
        if cause := self._failure_elsewhere():
            return as_error(cause)
        described = describe(self.nodes.rank, failure)
        self.report(failure=described)
        self._wait_for_root_cause(described)
        if cause := self._failure_elsewhere():
            return as_error(cause)
        return self._or_lost_host(failure)

    def resolve_worker_failure(self, failure: JobError) -> JobError | None:
        """The failure that this node exits with after its workers failed; None if another round follows."""
        described = describe(self.nodes.rank, failure)
        if described.is_explained:
            return failure
        self.report(failure=described)
        self._wait_for_root_cause(described)
        if self.is_changing():
            self.report(failure=None)
            return None
        return self._or_lost_host(failure)

    def _failure_elsewhere(self) -> NodeFailure | None:
        failure = self.state.failure
        return failure if failure and failure.node != self.nodes.rank else None

    def _or_lost_host(self, failure: JobError) -> JobError:
        """An unexplained failure is a consequence of the loss of node 0, if that is lost."""
        return failure if describe(0, failure).is_explained else self._find_lost() or failure

    def close(self) -> None:
        """Stop to report, once the other nodes know how the run ended."""
        self.report(knows_outcome=self.state.is_over)
        deadline = time.monotonic() + CLOSING_SECONDS
        while time.monotonic() < deadline and self._thread.is_alive() and not self._may_close():
            time.sleep(POLL_SECONDS)
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSING_SECONDS)

    @abstractmethod
    def _exchange(self) -> None:
        """Report to node 0 and receive the state, once."""

    @abstractmethod
    def _may_close(self) -> bool:
        """Whether the last messages have been exchanged."""

    @abstractmethod
    def _start_round_if_ready(self, find_checkpoint: Callable[[], str | None]) -> None:
        """Start the next round, if this is node 0 and enough nodes wait for it."""

    def _find_lost(self) -> JobError | None:
        return self._lost

    def _next_report(self, host_incarnation: str) -> NodeReport:
        is_training = self._report.round and not self._report.is_waiting
        return replace(
            self._report,
            sequence=self._report.sequence + 1,
            host_incarnation=host_incarnation,
            heartbeats=self._heartbeats() if is_training else (),
        )

    def _wait_for_root_cause(self, failure: NodeFailure) -> None:
        """Wait until node 0 has decided, which takes longer for the possible consequence of a lost node."""
        seconds = CLOSING_SECONDS + (0 if failure.is_explained else self._timeouts.node)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._find_lost() is None:
            if self.state.failure or self.is_changing():
                return
            time.sleep(POLL_SECONDS)

    def _run(self) -> None:
        while True:
            self._wake.clear()
            is_last = self._closing.is_set()
            try:
                self._exchange()
            except (OSError, RuntimeError) as error:  # of torch, whose errors are RuntimeErrors
                self._lost = self._lost or lost_host(first_line(error))
            except Exception as error:
                self._lost = InternalError(f"{type(error).__name__}: {error}", traceback.format_exc())
            if is_last or self._lost:
                return
            self._wake.wait(min(HEARTBEAT_SECONDS, self._timeouts.node / 4))


def lost_host(reason: str) -> JobError:
    """The error of a lost node 0, which served the store."""
    return HangTimeout(f"node 0 is lost: {reason}; start all nodes again")
