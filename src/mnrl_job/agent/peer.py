"""Any node but node 0 among the nodes of its run: it reports, and does as it is told."""

import time
from collections.abc import Callable
from contextlib import suppress

from mnrl_job.agent.messages import GroupState, GroupTimeouts, decode_state, encode
from mnrl_job.agent.node_group import GROUP, HEARTBEAT_SECONDS, NODE, Heartbeats, NodeGroup, lost_host
from mnrl_job.agent.signed_store import Message, SignatureError, SignedStore
from mnrl_job.errors import EnvironmentFailure, JobError, SettingsError
from mnrl_job.launch.nodes import Nodes


class PeerGroup(NodeGroup):
    """See `NodeGroup`."""

    def __init__(
        self, nodes: Nodes, messages: SignedStore, timeouts: GroupTimeouts, heartbeats: Callable[[], Heartbeats]
    ) -> None:
        super().__init__(nodes, messages, timeouts, heartbeats)
        self._heard_at = time.monotonic()
        self._stranger: JobError | None = None

    def open(self, check: Callable[[], None]) -> None:
        """Wait while another process has this node's number: one of the attempt before, which is ending, or a double.

        Raises:
            SettingsError: it does not end.
        """
        deadline = time.monotonic() + self._timeouts.join
        while self._is_taken():
            check()
            if time.monotonic() > deadline:
                raise self._double()
        self._heard_at = time.monotonic()
        super().open(check)

    def _is_taken(self) -> bool:
        before = self._read_own()
        if before is None:
            return False
        time.sleep(3 * HEARTBEAT_SECONDS)
        return self._read_own() != before

    def _read_own(self) -> Message | None:
        with suppress(SignatureError):
            return self._messages.read(NODE.format(self.nodes.rank))
        return None

    def _double(self) -> JobError:
        return SettingsError(
            f"another process is node {self.nodes.rank} of this run, too; give each node its own MNRL_NODE_RANK"
        )

    def _offer_round(self, find_checkpoint: Callable[[], str | None]) -> None:
        """Node 0 does."""

    def _may_leave(self) -> bool:
        return not self._wake.is_set()

    def _find_lost(self) -> JobError | None:
        """The thread may be waiting for an answer that never comes."""
        if time.monotonic() - self._heard_at <= self._timeouts.node:
            return self._lost
        unheard = None if self.state.incarnation else self._stranger
        return self._lost or unheard or lost_host(f"no heartbeat for {self._timeouts.node:g} s")

    def _exchange(self) -> None:
        with self._changed:
            self._report = self._next_report(self.state.incarnation)
            message = encode(self._report)
        self._messages.write(NODE.format(self.nodes.rank), message)
        state = self._read_state()
        if state and state.sequence > self.state.sequence and self._is_meant(state):
            with self._changed:
                self.state, self._heard_at = state, time.monotonic()

    def _read_state(self) -> GroupState | None:
        try:
            message = self._messages.read(GROUP)
            return decode_state(message) if message else None
        except SignatureError as error:
            self._stranger = SettingsError(
                f"node 0 belongs to another run, or has another MNRL_GROUP_SECRET ({error}); "
                "give all nodes the same MNRL_RUN_ID and secret"
            )
        except ValueError:
            self._lost = EnvironmentFailure(
                "node 0 runs another mnrl-job than this node; run the same image on all nodes"
            )
        return None

    def _is_meant(self, state: GroupState) -> bool:
        """Whether node 0 speaks to this incarnation of this node; another process may have taken its number."""
        heard = state.heard.get(self.nodes.rank)
        if heard == self._report.incarnation:
            return not self.state.incarnation or state.incarnation == self.state.incarnation
        if self.state.incarnation and heard is not None:
            self._lost = self._double()
        return False
