"""Any node but node 0 in the group: it reports to node 0 and follows its state."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

from pydantic import TypeAdapter

from mnrl_job.agent.messages import GroupState, GroupTimeouts
from mnrl_job.agent.node_group import GROUP, HEARTBEAT_SECONDS, NODE, Heartbeats, NodeGroup, lost_host
from mnrl_job.agent.signed_store import Message, SignatureError, SignedStore
from mnrl_job.errors import EnvironmentFailure, JobError, SettingsError
from mnrl_job.launch.nodes import Nodes


class PeerGroup(NodeGroup):
    def __init__(
        self, nodes: Nodes, messages: SignedStore, timeouts: GroupTimeouts, heartbeats: Callable[[], Heartbeats]
    ) -> None:
        super().__init__(nodes, messages, timeouts, heartbeats)
        self._received_at = time.monotonic()
        self._signature_failure: JobError | None = None

    def open(self, check: Callable[[], None]) -> None:
        """Wait while another process reports with this node's rank: of the attempt before, or a duplicate.

        Raises:
            SettingsError: it does not exit.
        """
        deadline = time.monotonic() + self._timeouts.join
        while self._is_rank_taken():
            check()
            if time.monotonic() > deadline:
                raise self._duplicate_rank()
        self._received_at = time.monotonic()
        super().open(check)

    def _is_rank_taken(self) -> bool:
        before = self._read_own_report()
        if before is None:
            return False
        time.sleep(3 * HEARTBEAT_SECONDS)
        return self._read_own_report() != before

    def _read_own_report(self) -> Message | None:
        with suppress(SignatureError):
            return self._messages.read(NODE.format(self.nodes.rank))
        return None

    def _duplicate_rank(self) -> JobError:
        return SettingsError(
            f"another process has the rank of node {self.nodes.rank}; give each node its own MNRL_NODE_RANK"
        )

    def _start_round_if_ready(self, find_checkpoint: Callable[[], str | None]) -> None:
        """Node 0 does."""

    def _may_close(self) -> bool:
        return not self._wake.is_set()

    def _find_lost(self) -> JobError | None:
        """The time is checked here, too, since the thread may be blocked in a request to node 0."""
        if time.monotonic() - self._received_at <= self._timeouts.node:
            return self._lost
        rejected = None if self.state.incarnation else self._signature_failure
        return self._lost or rejected or lost_host(f"no heartbeat for {self._timeouts.node:g} s")

    def _exchange(self) -> None:
        with self._lock:
            self._report = self._next_report(self.state.incarnation)
            message = asdict(self._report)
        self._messages.write(NODE.format(self.nodes.rank), message)
        state = self._read_state()
        if state and state.sequence > self.state.sequence and self._is_for_this_process(state):
            with self._lock:
                self.state, self._received_at = state, time.monotonic()

    def _read_state(self) -> GroupState | None:
        try:
            message = self._messages.read(GROUP)
            return TypeAdapter(GroupState).validate_python(message) if message else None
        except SignatureError as error:
            self._signature_failure = SettingsError(
                f"node 0 belongs to another run or has a different MNRL_GROUP_SECRET ({error}); "
                "give all nodes the same MNRL_RUN_ID and secret"
            )
        except ValueError:  # sent by another version of this program
            self._lost = EnvironmentFailure(
                "node 0 runs a different version of mnrl-job than this node; run the same image on all nodes"
            )
        return None

    def _is_for_this_process(self, state: GroupState) -> bool:
        """Whether node 0 has received a report of this process; another one may have taken its rank."""
        known = state.incarnations.get(self.nodes.rank)
        if known == self._report.incarnation:
            return not self.state.incarnation or state.incarnation == self.state.incarnation
        if self.state.incarnation and known is not None:
            self._lost = self._duplicate_rank()
        return False
