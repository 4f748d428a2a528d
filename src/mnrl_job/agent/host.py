"""Node 0 in the group: it receives all reports and broadcasts the decisions of its coordinator."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter

from mnrl_job.agent.coordinator import Coordinator
from mnrl_job.agent.messages import GroupTimeouts, NodeReport, describe
from mnrl_job.agent.node_group import GROUP, NODE, Heartbeats, NodeGroup
from mnrl_job.agent.signed_store import SignatureError, SignedStore
from mnrl_job.errors import EnvironmentFailure, HangTimeout
from mnrl_job.launch.nodes import Nodes
from mnrl_job.launch.watchdog import Watchdog
from mnrl_job.system.logs import warn


class HostGroup(NodeGroup):
    def __init__(
        self, nodes: Nodes, messages: SignedStore, timeouts: GroupTimeouts, heartbeats: Callable[[], Heartbeats]
    ) -> None:
        super().__init__(nodes, messages, timeouts, heartbeats)
        self._coordinator = Coordinator(nodes, self._report.incarnation, timeouts, time.monotonic())
        self._watchdog = Watchdog(self._workers, timeouts.hang)
        self._unsigned_nodes: set[int] = set()

    def publish(self) -> None:
        with self._lock:
            self._coordinator.publish()
        self._wake.set()

    def _start_round_if_ready(self, find_checkpoint: Callable[[], str | None]) -> None:
        if self._ready_members():
            checkpoint = find_checkpoint()  # takes time, in which nodes may be lost
            with self._lock:
                if members := self._ready_members():
                    self._coordinator.start_round(members, checkpoint)
            self._wake.set()

    def _may_close(self) -> bool:
        with self._lock:
            return self._coordinator.all_know_outcome(time.monotonic())

    def _ready_members(self) -> tuple[int, ...]:
        with self._lock:
            return self._coordinator.ready_members(time.monotonic())

    def _exchange(self) -> None:
        now = time.monotonic()
        reports = [report for node in range(1, self.nodes.max_nodes) if (report := self._read_report(node))]
        with self._lock:
            self._report = self._next_report(self._report.incarnation)
            for report in (self._report, *reports):
                self._coordinator.receive(report, now)
            self._detect_hang()
            self.state = replace(self._coordinator.update(now), sequence=self.state.sequence + 1)
            self._coordinator.state = self.state
            message = asdict(self.state)
        self._messages.write(GROUP, message)

    def _detect_hang(self) -> None:
        try:
            self._watchdog.poll()
        except HangTimeout as error:
            failure = describe(self.nodes.rank, error, for_all_nodes=True)
            self._coordinator.fail(replace(failure, message=str(error), dumps_stacks=True))

    def _read_report(self, node: int) -> NodeReport | None:
        try:
            message = self._messages.read(NODE.format(node))
            return TypeAdapter(NodeReport).validate_python(message) if message else None
        except SignatureError as error:
            if node not in self._unsigned_nodes:
                self._unsigned_nodes.add(node)
                warn(f"{error}; it is ignored")
        except ValueError:  # sent by another version of this program
            failure = EnvironmentFailure(
                f"node {node} runs a different version of mnrl-job than node 0; run the same image on all nodes"
            )
            with self._lock:
                self._coordinator.fail(describe(node, failure, for_all_nodes=True))
        return None

    def _workers(self) -> dict[str, dict[str, Any]]:
        """The last heartbeats of all nodes' workers, by the worker's name."""
        return {
            f"node {report.node} worker {rank}": heartbeat
            for report in self._coordinator.member_reports()
            for rank, heartbeat in enumerate(report.heartbeats)
        }
