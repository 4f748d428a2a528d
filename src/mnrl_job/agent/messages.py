"""Messages between nodes: each node reports to node 0, which broadcasts the state of the group."""

from dataclasses import dataclass, field
from typing import Any

from mnrl_job.errors import HangTimeout, InternalError, JobError, PeerFailed, Preempted, by_kind
from mnrl_job.launch.fingerprint import Fingerprint
from mnrl_job.system.secrets import redact


@dataclass(frozen=True, slots=True)
class GroupTimeouts:
    """Timeouts in seconds: of heartbeats of a node, to wait for (MIN) nodes to join, without progress of any worker.

    An elastic round with fewer than MAX nodes waits `last_call` for more.
    """

    node: float
    join: float
    hang: float
    last_call: float = 5.0


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """Why a node failed. `message` names the node, `trace` is the traceback of an internal error.

    `for_all_nodes`: all nodes exit with the same code, since no single node is at fault. `dumps_stacks`: workers dump
    their stacks before they are stopped.
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

    The random id of a process is its `incarnation`, that of node 0 `host_incarnation`, once it has answered. `nodes` is
    MIN:MAX, as configured. `fingerprint` follows once the data is prepared, `heartbeats` are the last of each worker.
    The `round` is the last one started; a node that `is_waiting` for the next has no running workers. A node
    `knows_outcome` once it knows that the run is published, or why it failed.
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
    """What node 0 broadcasts, with its own incarnation and that of each node that reports, by rank.

    The `round` of workers is counted from 1; it has the nodes `members`, in order, and resumes from `checkpoint`, None
    for the beginning. It `is_broken` if a member is lost, so that its workers cannot continue, and `is_resizing` if
    nodes join or leave, so that its workers save a checkpoint and exit. `refused` nodes may not join. `failure` is why
    the run ends.
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
        return self.is_published or self.failure is not None


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
