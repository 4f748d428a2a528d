"""Decisions of node 0 for the group: which nodes form a round of workers, when a round starts, and why the run ends.

No I/O: the caller passes the time, in seconds of node 0's monotonic clock. Clocks of nodes are never compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mnrl_job.agent.messages import GroupState, GroupTimeouts, NodeFailure, NodeReport, describe
from mnrl_job.errors import HangTimeout, JobError, Preempted, SettingsError
from mnrl_job.launch.fingerprint import find_mismatch
from mnrl_job.launch.nodes import Nodes
from mnrl_job.system.logs import warn

RESTART = "start all nodes again"
# To wait for the root cause after a failure that may be a consequence.
ROOT_CAUSE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class _Received:
    report: NodeReport
    at: float


class Coordinator:
    """Derives the state of the group from reports of all nodes, also node 0, whose process is `incarnation`."""

    def __init__(self, nodes: Nodes, incarnation: str, timeouts: GroupTimeouts, now: float) -> None:
        self.state = GroupState(incarnation)
        self._nodes = nodes
        self._timeouts = timeouts
        self._received: dict[int, _Received] = {}
        self._replaced_incarnations: set[str] = set()
        self._sequences: dict[str, int] = {}
        self._enough_nodes_at = now
        self._candidates: tuple[int, ...] = ()
        self._candidates_at = now
        self._unexplained: tuple[NodeFailure, float] | None = None

    def receive(self, report: NodeReport, now: float) -> None:
        """Record a report. Those of an earlier process of the node, or for an earlier node 0, are ignored."""
        node = report.node
        last = self._received.get(node)
        if not 0 <= node < self._nodes.max_nodes or report.incarnation in self._replaced_incarnations:
            return
        if report.sequence <= self._sequences.get(report.incarnation, -1):
            return  # the store keeps the last report of a lost node
        self._sequences[report.incarnation] = report.sequence
        if last and last.report.incarnation != report.incarnation:
            self._replaced_incarnations.add(last.report.incarnation)
            self._lose(node, "it was restarted", was_needed=node in self.state.members)
        self.state = replace(self.state, incarnations=self.state.incarnations | {node: report.incarnation})
        if report.host_incarnation == self.state.incarnation:
            self._received[node] = _Received(report, now)

    def update(self, now: float) -> GroupState:
        """The state to broadcast now."""
        if not self.state.is_over:
            self._detect_lost(now)
            self._handle_failures(now)
            self._compare_fingerprints()
            self._check_join_timeout(now)
        if not self.state.is_over:
            self._resize()
        return self.state

    def ready_members(self, now: float) -> tuple[int, ...]:
        """Ranks of the nodes for a round that can start now; empty if it cannot."""
        if self.state.is_over:
            return ()
        waiting = tuple(sorted(node for node, report in self._reports() if self._may_join(report)))
        if waiting != self._candidates:
            self._candidates, self._candidates_at = waiting, now
        running = [
            node
            for node, report in self._reports()
            if node in self.state.members and not (report.is_waiting or report.has_trained)
        ]
        enough = len(waiting) >= self._nodes.min_nodes and 0 in waiting
        if not enough or (self.state.round and running):
            return ()
        is_complete = len(waiting) == self._nodes.max_nodes
        return waiting if is_complete or now - self._candidates_at >= self._timeouts.last_call else ()

    def start_round(self, members: tuple[int, ...], checkpoint: str | None) -> None:
        self.state = replace(
            self.state,
            round=self.state.round + 1,
            members=members,
            checkpoint=checkpoint,
            is_broken=False,
            is_resizing=False,
        )
        self._unexplained = None

    def fail(self, failure: NodeFailure) -> None:
        """End the run; only the first failure counts."""
        if not self.state.is_over:
            self.state = replace(self.state, failure=failure)

    def publish(self) -> None:
        self.state = replace(self.state, is_published=True)

    def all_know_outcome(self, now: float) -> bool:
        """Whether all nodes that are not lost know how the run ended."""
        return all(
            received.report.knows_outcome or now - received.at > self._timeouts.node
            for node, received in self._received.items()
            if node != 0
        )

    def member_reports(self) -> Iterable[NodeReport]:
        """Reports of the nodes whose workers are running in this round."""
        for node, report in self._reports():
            if node in self.state.members and report.round == self.state.round and not report.is_waiting:
                yield report

    def _reports(self) -> list[tuple[int, NodeReport]]:
        return [(node, received.report) for node, received in sorted(self._received.items())]

    def _may_join(self, report: NodeReport) -> bool:
        """Whether a node waits for the next round, and has seen the current one."""
        is_current = report.round == self.state.round or report.node not in self.state.members
        is_eligible = (
            report.fingerprint is not None and report.node not in self.state.refused and report.failure is None
        )
        return report.is_waiting and is_current and is_eligible

    def _has_trained(self) -> bool:
        return 0 in self._received and self._received[0].report.has_trained

    def _detect_lost(self, now: float) -> None:
        for node, received in list(self._received.items()):
            if node != 0 and now - received.at > self._timeouts.node and received.report.failure is None:
                self._lose(node, f"no heartbeat for {self._timeouts.node:g} s", was_needed=True)

    def _lose(self, node: int, reason: str, was_needed: bool) -> None:
        """Continue an elastic run without the node; end a run with a fixed number of nodes, if the node was needed."""
        del self._received[node]
        if self._has_trained():
            return
        if not self._nodes.is_elastic:
            if was_needed:
                self.fail(describe(node, HangTimeout(f"node {node} is lost: {reason}; {RESTART}"), for_all_nodes=True))
        elif node in self.state.members:
            warn(f"node {node} is lost: {reason}; the others resume from the newest checkpoint")
            self.state = replace(self.state, is_broken=True)

    def _handle_failures(self, now: float) -> None:
        failures = [report.failure for _, report in self._reports() if report.failure]
        for failure in failures:
            if not failure.is_explained:
                self._unexplained = self._unexplained or (failure, now)
            elif self._leaves_without_ending_run(failure):
                self._release(failure.node)
            else:
                self.fail(failure)
        is_changing = self.state.is_broken or self.state.is_resizing
        if self._unexplained and not is_changing and self._all_alive_since(self._unexplained[1], now):
            self.fail(self._unexplained[0])

    def _leaves_without_ending_run(self, failure: NodeFailure) -> bool:
        """Whether a node leaves an elastic run, since it was preempted or has not joined yet."""
        if not self._nodes.is_elastic or failure.node == 0:
            return False
        return failure.kind == Preempted.kind or bool(self.state.round and failure.node not in self.state.members)

    def _release(self, node: int) -> None:
        """Have the others save a checkpoint and resume without this node."""
        del self._received[node]
        if node in self.state.members and not self._has_trained():
            self.state = replace(self.state, is_resizing=True)

    def _all_alive_since(self, then: float, now: float) -> bool:
        """Whether no node was lost that could be the root cause of an unexplained failure."""
        others = [
            received
            for node, received in self._received.items()
            if node in self.state.members and received.report.failure is None
        ]
        return now - then >= ROOT_CAUSE_SECONDS and all(
            received.at > then + ROOT_CAUSE_SECONDS / 2 for received in others
        )

    def _compare_fingerprints(self) -> None:
        for node, report in self._reports():
            if node == 0 or node in self.state.refused:
                continue
            error: JobError | None = None
            if report.nodes != str(self._nodes):
                error = SettingsError(
                    f"node {node} has MNRL_NUM_NODES={report.nodes}, node 0 has {self._nodes}; "
                    "give all nodes the same settings"
                )
            elif report.fingerprint and (first := self._received.get(0)) and first.report.fingerprint:
                error = find_mismatch(first.report.fingerprint, report.fingerprint, node)
            if error and self.state.round and node not in self.state.members:
                self.state = replace(self.state, refused=self.state.refused | {node: describe(node, error)})
            elif error:
                self.fail(describe(node, error, for_all_nodes=True))

    def _check_join_timeout(self, now: float) -> None:
        """The timeout does not apply to nodes that have joined and are preparing their data."""
        if len(self._received) >= self._nodes.min_nodes or self._has_trained():
            self._enough_nodes_at = now
        elif now - self._enough_nodes_at > self._timeouts.join:
            missing = [node for node in range(self._nodes.max_nodes) if node not in self._received]
            joined = f", {len(self._received)} joined of MNRL_NUM_NODES={self._nodes}" if self._nodes.is_elastic else ""
            error = HangTimeout(
                f"node {', '.join(map(str, missing))} did not join within {self._timeouts.join:g} s "
                f"(MNRL_JOIN_TIMEOUT){joined}; {RESTART}"
            )
            self.fail(describe(missing[0], error, for_all_nodes=True))

    def _resize(self) -> None:
        """End a round for nodes that wait to join, once all its members have started it."""
        members = [report for node, report in self._reports() if node in self.state.members]
        is_running = all(report.round == self.state.round and not report.has_trained for report in members)
        newcomers = any(self._may_join(report) and node not in self.state.members for node, report in self._reports())
        if self.state.round and newcomers and is_running and len(members) < self._nodes.max_nodes:
            self.state = replace(self.state, is_resizing=True)
