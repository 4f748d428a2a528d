"""What node 0 decides for all: who takes part in a round of workers, when a new round begins, and why a run ends.

It reads no clock and no network: each call says what time it is, in seconds of node 0's monotonic clock. So clocks of
nodes are never compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mnrl_job.agent.messages import GroupState, GroupTimeouts, NodeFailure, NodeReport, describe
from mnrl_job.errors import HangTimeout, JobError, Preempted, SettingsError
from mnrl_job.launch.fingerprint import find_mismatch
from mnrl_job.launch.nodes import Nodes
from mnrl_job.system.logs import warn

AGAIN = "start all nodes again"
# For a failure that explains itself to follow one that does not.
SETTLING_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class _Heard:
    report: NodeReport
    at: float


class Coordinator:
    """Follows the reports of all nodes, its own included.

    Args:
        nodes: how many take part.
        incarnation: names the process of node 0, until it is started again.
        timeouts: how long to wait for whom.
        now: the time.
    """

    def __init__(self, nodes: Nodes, incarnation: str, timeouts: GroupTimeouts, now: float) -> None:
        self.state = GroupState(incarnation)
        self._nodes = nodes
        self._timeouts = timeouts
        self._heard: dict[int, _Heard] = {}
        self._former: set[str] = set()
        self._sequences: dict[str, int] = {}
        self._enough_at = now
        self._candidates: tuple[int, ...] = ()
        self._candidates_at = now
        self._unexplained: tuple[NodeFailure, float] | None = None

    def hear(self, report: NodeReport, now: float) -> None:
        """Take in what a node says. What it said in a former incarnation, or to a former node 0, means nothing."""
        node = report.node
        last = self._heard.get(node)
        if not 0 <= node < self._nodes.max_nodes or report.incarnation in self._former:
            return
        if report.sequence <= self._sequences.get(report.incarnation, -1):
            return  # it stays in the store, also where its node is lost
        self._sequences[report.incarnation] = report.sequence
        if last and last.report.incarnation != report.incarnation:
            self._former.add(last.report.incarnation)
            self._lose(node, "it started again", was_needed=node in self.state.members)
        self.state = replace(self.state, heard=self.state.heard | {node: report.incarnation})
        if report.host_incarnation == self.state.incarnation:
            self._heard[node] = _Heard(report, now)

    def decide(self, now: float) -> GroupState:
        """What all nodes are to know now."""
        if not self.state.is_over:
            self._notice_lost(now)
            self._notice_failures(now)
            self._notice_mismatches()
            self._wait_for_nodes(now)
        if not self.state.is_over:
            self._resize()
        return self.state

    def ready_members(self, now: float) -> tuple[int, ...]:
        """Who would take part in a round that begins now; nobody where it is too early."""
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
        all_there = len(waiting) == self._nodes.max_nodes
        return waiting if all_there or now - self._candidates_at >= self._timeouts.last_call else ()

    def begin_round(self, members: tuple[int, ...], checkpoint: str | None) -> None:
        """Have these nodes start workers that go on from a checkpoint."""
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
        """End the run; the first failure stays."""
        if not self.state.is_over:
            self.state = replace(self.state, failure=failure)

    def publish(self) -> None:
        """Tell that the run is published."""
        self.state = replace(self.state, is_published=True)

    def all_have_heard_the_end(self, now: float) -> bool:
        """Whether each node that is still there knows how the run ended."""
        return all(
            heard.report.has_heard_the_end or now - heard.at > self._timeouts.node
            for node, heard in self._heard.items()
            if node != 0
        )

    def member_reports(self) -> Iterable[NodeReport]:
        """Those of the nodes whose workers run in this round."""
        for node, report in self._reports():
            if node in self.state.members and report.round == self.state.round and not report.is_waiting:
                yield report

    def _reports(self) -> list[tuple[int, NodeReport]]:
        return [(node, heard.report) for node, heard in sorted(self._heard.items())]

    def _may_join(self, report: NodeReport) -> bool:
        """Whether a node waits for the next round, not for one that it has yet to notice."""
        caught_up = report.round == self.state.round or report.node not in self.state.members
        fit = report.fingerprint is not None and report.node not in self.state.refused and report.failure is None
        return report.is_waiting and caught_up and fit

    def _has_trained(self) -> bool:
        return 0 in self._heard and self._heard[0].report.has_trained

    def _notice_lost(self, now: float) -> None:
        for node, heard in list(self._heard.items()):
            if node != 0 and now - heard.at > self._timeouts.node and heard.report.failure is None:
                self._lose(node, f"no heartbeat for {self._timeouts.node:g} s", was_needed=True)

    def _lose(self, node: int, reason: str, was_needed: bool) -> None:
        """An elastic run goes on without it, a run of a fixed number of nodes ends if it was needed."""
        del self._heard[node]
        if self._has_trained():
            return
        if not self._nodes.is_elastic:
            if was_needed:
                self.fail(describe(node, HangTimeout(f"node {node} is lost: {reason}; {AGAIN}"), everywhere=True))
        elif node in self.state.members:
            warn(f"node {node} is lost: {reason}; the others go on from the newest checkpoint")
            self.state = replace(self.state, is_broken=True)

    def _notice_failures(self, now: float) -> None:
        failures = [report.failure for _, report in self._reports() if report.failure]
        for failure in failures:
            if not failure.is_explained:
                self._unexplained = self._unexplained or (failure, now)
            elif self._leaves_alone(failure):
                self._let_go(failure.node)
            else:
                self.fail(failure)
        is_changing = self.state.is_broken or self.state.is_resizing
        if self._unexplained and not is_changing and self._all_seem_well_since(self._unexplained[1], now):
            self.fail(self._unexplained[0])

    def _leaves_alone(self, failure: NodeFailure) -> bool:
        """Whether a node of an elastic run ends without the others: it was asked to stop, or has not joined yet."""
        if not self._nodes.is_elastic or failure.node == 0:
            return False
        return failure.kind == Preempted.kind or bool(self.state.round and failure.node not in self.state.members)

    def _let_go(self, node: int) -> None:
        """Have the others save and go on without a node."""
        del self._heard[node]
        if node in self.state.members and not self._has_trained():
            self.state = replace(self.state, is_resizing=True)

    def _all_seem_well_since(self, then: float, now: float) -> bool:
        """Whether no node is lost that could have caused a failure which does not explain itself."""
        others = [
            heard for node, heard in self._heard.items() if node in self.state.members and heard.report.failure is None
        ]
        return now - then >= SETTLING_SECONDS and all(heard.at > then + SETTLING_SECONDS / 2 for heard in others)

    def _notice_mismatches(self) -> None:
        for node, report in self._reports():
            if node == 0 or node in self.state.refused:
                continue
            error: JobError | None = None
            if report.nodes != str(self._nodes):
                error = SettingsError(
                    f"node {node} has MNRL_NUM_NODES={report.nodes}, node 0 has {self._nodes}; "
                    "give all nodes the same settings"
                )
            elif report.fingerprint and (first := self._heard.get(0)) and first.report.fingerprint:
                error = find_mismatch(first.report.fingerprint, report.fingerprint, node)
            if error and self.state.round and node not in self.state.members:
                self.state = replace(self.state, refused=self.state.refused | {node: describe(node, error)})
            elif error:
                self.fail(describe(node, error, everywhere=True))

    def _wait_for_nodes(self, now: float) -> None:
        """Nodes that are there, but still prepare, are waited for as long as that takes."""
        if len(self._heard) >= self._nodes.min_nodes or self._has_trained():
            self._enough_at = now
        elif now - self._enough_at > self._timeouts.join:
            missing = [node for node in range(self._nodes.max_nodes) if node not in self._heard]
            there = f", {len(self._heard)} are there of MNRL_NUM_NODES={self._nodes}" if self._nodes.is_elastic else ""
            error = HangTimeout(
                f"node {', '.join(map(str, missing))} did not join within {self._timeouts.join:g} s "
                f"(MNRL_JOIN_TIMEOUT){there}; {AGAIN}"
            )
            self.fail(describe(missing[0], error, everywhere=True))

    def _resize(self) -> None:
        """Have a round end for nodes that wait to join, once all its members have begun it."""
        members = [report for node, report in self._reports() if node in self.state.members]
        begun = all(report.round == self.state.round and not report.has_trained for report in members)
        newcomers = any(self._may_join(report) and node not in self.state.members for node, report in self._reports())
        if self.state.round and newcomers and begun and len(members) < self._nodes.max_nodes:
            self.state = replace(self.state, is_resizing=True)
