"""Messages between nodes: each node reports to node 0, which broadcasts the state of the group."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from mnrl_job.errors import HangTimeout, InternalError, JobError, PeerFailed, Preempted, by_kind
from mnrl_job.launch.fingerprint import Fingerprint
from mnrl_job.system.secrets import redact


@dataclass(frozen=True, slots=True)
class GroupTimeouts:
    """Timeouts in seconds.

    Attributes:
        node: a node without a heartbeat for this long is lost.
        join: to wait for all nodes to join, or in an elastic run for MIN nodes.
        hang: the run is aborted if no worker of any node makes progress for this long.
        last_call: an elastic round with fewer than MAX nodes waits this long for more.
    """

    node: float
    join: float
    hang: float
    last_call: float = 5.0


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """Why a node failed.

    Attributes:
        node: its number.
        kind: of the error.
        message: names the node.
        trace: traceback of an internal error.
        for_all_nodes: whether all nodes exit with the same code, since no single node is at fault.
        dumps_stacks: whether workers dump their stacks before they are stopped.
    """

    node: int
    kind: str
    message: str
    trace: str = ""
    for_all_nodes: bool = False
    dumps_stacks: bool = False

    @property
    def is_explained(self) -> bool:
        """Whether it is a root cause. An unexpected exception may be a connection broken by another node's failure."""
        return not (self.kind == InternalError.kind and self.trace)


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node sends to node 0, about once a second.

    Attributes:
        node: its rank.
        incarnation: random id of this process; a restarted node has another.
        sequence: number of the report.
        host_incarnation: of node 0, once it has answered.
        nodes: MIN:MAX, as configured on this node.
        fingerprint: of the run, once its data is prepared.
        round: the last one it has started.
        is_waiting: whether it waits for the next round; its workers are not running.
        heartbeats: the last of each of its workers.
        failure: that it exits with.
        has_trained: whether its workers succeeded.
        knows_outcome: whether it knows that the run is published, or why it failed.
    """

    node: int
    incarnation: str
    sequence: int = 0
    host_incarnation: str = ""
    nodes: str = ""
    fingerprint: Fingerprint | None = None
    round: int = 0
    is_waiting: bool = False
    heartbeats: tuple[dict[str, Any], ...] = ()
    failure: NodeFailure | None = None
    has_trained: bool = False
    knows_outcome: bool = False


@dataclass(frozen=True, slots=True)
class GroupState:
    """What node 0 broadcasts.

    Attributes:
        incarnation: of node 0.
        sequence: number of the state.
        incarnations: of each node that reports, by rank.
        round: of workers, counted from 1; 0 before the first.
        members: ranks of its nodes, in order.
        checkpoint: name of the one to resume from, None to start from the beginning.
        is_broken: whether a member is lost, so that this round's workers cannot continue.
        is_resizing: whether nodes join or leave, so that this round's workers save a checkpoint and exit.
        refused: nodes that may not join, and why.
        failure: why the run ends, on all nodes.
        is_published: whether the run is published.
    """

    incarnation: str
    sequence: int = 0
    incarnations: dict[int, str] = field(default_factory=dict)
    round: int = 0
    members: tuple[int, ...] = ()
    checkpoint: str | None = None
    is_broken: bool = False
    is_resizing: bool = False
    refused: dict[int, NodeFailure] = field(default_factory=dict)
    failure: NodeFailure | None = None
    is_published: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.is_published or self.failure is not None


def encode(message: NodeReport | GroupState) -> dict[str, Any]:
    """As JSON values."""
    return asdict(message)


def decode_report(message: dict[str, Any]) -> NodeReport:
    """Inverse of `encode`.

    Raises:
        ValueError: it was sent by another version of this program.
    """
    return TypeAdapter(NodeReport).validate_python(message)


def decode_state(message: dict[str, Any]) -> GroupState:
    """Inverse of `encode`.

    Raises:
        ValueError: it was sent by another version of this program.
    """
    return TypeAdapter(GroupState).validate_python(message)


def describe(node: int, error: JobError, for_all_nodes: bool = False) -> NodeFailure:
    """The message of a failure, with the node it happened on."""
    text = redact(str(error))
    trace = redact(error.trace) if isinstance(error, InternalError) else ""
    message = text if text.startswith("node ") else f"node {node}: {text}"
    return NodeFailure(node, error.kind, message, trace, for_all_nodes)


def as_error(failure: NodeFailure) -> JobError:
    """The error that a node exits with after it has received a failure.

    All nodes exit alike after a lost node, a hang or a preemption; otherwise only the node that failed has the cause.
    """
    if failure.for_all_nodes or failure.kind in (HangTimeout.kind, Preempted.kind):
        return by_kind(failure.kind, failure.message, failure.trace)
    return PeerFailed(failure.message)
