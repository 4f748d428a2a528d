"""A node's place among the nodes of its run: it reports to node 0 and learns what all are to do.

Every node reports about once a second, by a thread and a connection of its own, so that a node is noticed to be lost
whatever its workers and their libraries wait for, also where its cable was pulled.
"""

import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mnrl_job.agent.messages import GroupState, GroupTimeouts, NodeFailure, NodeReport, as_error, describe
from mnrl_job.agent.signed_store import SignedStore, new_incarnation
from mnrl_job.errors import HangTimeout, InternalError, JobError, first_line
from mnrl_job.launch.nodes import Nodes

HEARTBEAT_SECONDS = 1.0
POLL_SECONDS = 0.05
# For others to tell what they know, and to hear how the run ended.
FAREWELL_SECONDS = 5.0
# The keys of messages: of node 0 to all, of each node to node 0.
GROUP, NODE = "group", "node/{}"

Heartbeats = tuple[dict[str, Any], ...]


class NodeGroup(ABC):
    """The nodes of a run, as one of them sees them.

    Args:
        nodes: who takes part, and which of them this is.
        messages: where they meet.
        timeouts: how long to wait for whom.
        heartbeats: gives the last ones of this node's workers.

    Attributes:
        state: what node 0 said last.
    """

    def __init__(
        self, nodes: Nodes, messages: SignedStore, timeouts: GroupTimeouts, heartbeats: Callable[[], Heartbeats]
    ) -> None:
        self.nodes = nodes
        self.state = GroupState("")
        self._messages = messages
        self._timeouts = timeouts
        self._heartbeats = heartbeats
        self._report = NodeReport(nodes.rank, new_incarnation(), nodes=str(nodes))
        self._lost: JobError | None = None
        self._changed = threading.RLock()
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def round(self) -> int:
        """The last round that this node has begun."""
        return self._report.round

    def open(self, check: Callable[[], None]) -> None:
        """Begin to report and listen.

        Args:
            check: called while that must wait.
        """
        self._thread.start()

    def report(self, **changes: Any) -> None:
        """Tell node 0 of changes, see `NodeReport`."""
        with self._changed:
            self._report = replace(self._report, **changes)
        self._wake.set()

    def check(self) -> None:
        """Return where the run goes on.

        Raises:
            JobError: with what this node ends.
        """
        with self._changed:
            state, lost = self.state, self._find_lost()
        if state.failure:
            raise as_error(state.failure)
        if refusal := state.refused.get(self.nodes.rank):
            raise as_error(replace(refusal, everywhere=True))
        if lost and not state.is_published:
            raise lost

    def is_broken(self) -> bool:
        """Whether this node's workers cannot go on, since those of another node are lost."""
        return self.state.is_broken and self.state.round == self.round

    def is_resizing(self) -> bool:
        """Whether this node's workers are to save and end, since other nodes join or leave."""
        return self.state.is_resizing and self.state.round == self.round

    def is_changing(self) -> bool:
        """Whether this node's workers are to end for a next round, for either reason."""
        return self.is_broken() or self.is_resizing()

    def hangs(self) -> bool:
        """Whether the run ends since no worker of any node gets on."""
        return self.state.failure is not None and self.state.failure.dumps_stacks

    def next_round(self, find_checkpoint: Callable[[], str | None], poll: Callable[[], None]) -> GroupState:
        """Wait for the next round of workers.

        Args:
            find_checkpoint: the name of the newest one; asked at node 0, before each round.
            poll: called while waiting.

        Raises:
            JobError: with what this node ends.
        """
        self.report(is_waiting=True)
        while True:
            self.check()
            poll()
            state = self.state
            if state.round > self.round and self.nodes.rank in state.members:
                self.report(is_waiting=False, round=state.round)
                return state
            self._offer_round(find_checkpoint)
            time.sleep(POLL_SECONDS)

    def settle(self, failure: JobError) -> JobError:
        """With what this node ends, where it failed or was told that another did."""
        told = self.state.failure
        if told and told.node != self.nodes.rank:
            return as_error(told)
        described = describe(self.nodes.rank, failure)
        self.report(failure=described)
        self._wait_for_verdict(described)
        told = self.state.failure
        if told and told.node != self.nodes.rank:
            return as_error(told)
        return self._meaning(failure)

    def awaits_verdict(self, failure: JobError) -> JobError | None:
        """What a failure of this node's workers means: with what this node ends, None where a next round follows."""
        described = describe(self.nodes.rank, failure)
        if described.is_explained:
            return failure
        self.report(failure=described)
        self._wait_for_verdict(described)
        if self.is_changing():
            self.report(failure=None)
            return None
        return self._meaning(failure)

    def _meaning(self, failure: JobError) -> JobError:
        """A failure that does not explain itself comes from node 0, if that is lost."""
        return failure if describe(0, failure).is_explained else self._find_lost() or failure

    def close(self) -> None:
        """Leave, once the others have heard how the run ended."""
        self.report(has_heard_the_end=self.state.is_over)
        deadline = time.monotonic() + FAREWELL_SECONDS
        while time.monotonic() < deadline and self._thread.is_alive() and not self._may_leave():
            time.sleep(POLL_SECONDS)
        self._closing.set()
        self._wake.set()
        self._thread.join(FAREWELL_SECONDS)

    @abstractmethod
    def _exchange(self) -> None:
        """Report and listen, once."""

    @abstractmethod
    def _may_leave(self) -> bool:
        """Whether all has been said and heard."""

    @abstractmethod
    def _offer_round(self, find_checkpoint: Callable[[], str | None]) -> None:
        """Have the next round begin, where this node decides it."""

    def _find_lost(self) -> JobError | None:
        """Why node 0 cannot be heard any more, if so."""
        return self._lost

    def _next_report(self, host_incarnation: str) -> NodeReport:
        is_training = self._report.round and not self._report.is_waiting
        return replace(
            self._report,
            sequence=self._report.sequence + 1,
            host_incarnation=host_incarnation,
            heartbeats=self._heartbeats() if is_training else (),
        )

    def _wait_for_verdict(self, failure: NodeFailure) -> None:
        """Until node 0 has said what it means; one that does not explain itself may come from a node that is lost."""
        seconds = FAREWELL_SECONDS + (0 if failure.is_explained else self._timeouts.node)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._find_lost() is None:
            if self.state.failure or self.is_changing():
                return
            time.sleep(POLL_SECONDS)

    def _run(self) -> None:
        """The thread: report and listen, until all is said."""
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
    """Node 0 is gone, and the store with it."""
    return HangTimeout(f"node 0 is lost: {reason}; start all nodes again")
