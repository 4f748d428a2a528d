"""What nodes tell one another: each node reports to node 0, which answers all of them with one state of the group."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from mnrl_job.errors import HangTimeout, InternalError, JobError, PeerFailed, Preempted, by_kind
from mnrl_job.launch.fingerprint import Fingerprint
from mnrl_job.system.secrets import redact


@dataclass(frozen=True, slots=True)
class GroupTimeouts:
    """In seconds.

    Attributes:
        node: a node without a heartbeat for so long is lost.
        join: so long nodes may take to join, or in an elastic run to be MIN again.
        hang: so long no worker of any node may get on.
        last_call: so long an elastic round with fewer than MAX nodes waits for more.
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
        message: says which node.
        trace: of a fault of the program.
        everywhere: all nodes end with the same code, since it is no single node's fault.
        dumps_stacks: workers are to print where they stand.
    """

    node: int
    kind: str
    message: str
    trace: str = ""
    everywhere: bool = False
    dumps_stacks: bool = False

    @property
    def is_explained(self) -> bool:
        """A fault with a traceback may be a connection that broke, because of what happened on another node."""
        return not (self.kind == InternalError.kind and self.trace)


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node tells node 0, about once a second.

    Attributes:
        node: its number.
        incarnation: names this process, until it is started again.
        sequence: grows with each report.
        host_incarnation: node 0's, once it was heard of.
        nodes: MIN:MAX, as this node understands it.
        fingerprint: what it is about to do, once its data is prepared.
        round: the last one it has begun.
        is_waiting: whether it waits for the next one; its workers are not running.
        heartbeats: the last of each of its workers.
        failure: with what it ends.
        has_trained: whether its workers ended well.
        has_heard_the_end: whether it knows that the run is published, or why not.
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
    has_heard_the_end: bool = False


@dataclass(frozen=True, slots=True)
class GroupState:
    """What node 0 tells all.

    Attributes:
        incarnation: names the process of node 0, until it is started again.
        sequence: grows with each state.
        heard: the incarnation of each node that reports, by its number.
        round: of the workers, counted from 1; 0 before the first.
        members: the numbers of the nodes that take part in it, in the order of their ranks.
        checkpoint: the one that the round goes on from, None to begin at the beginning.
        is_broken: a member is lost, so this round's workers cannot go on.
        is_resizing: nodes wait to join, so this round's workers are to save and end.
        refused: nodes that may not take part, and why.
        failure: why the run ends, for all.
        is_published: the run is published.
    """

    incarnation: str
    sequence: int = 0
    heard: dict[int, str] = field(default_factory=dict)
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
        """Whether nothing more will happen."""
        return self.is_published or self.failure is not None


def encode(message: NodeReport | GroupState) -> dict[str, Any]:
    """As JSON values."""
    return asdict(message)


def decode_report(message: dict[str, Any]) -> NodeReport:
    """The report that was encoded.

    Raises:
        ValueError: it is of another version of this program.
    """
    return TypeAdapter(NodeReport).validate_python(message)


def decode_state(message: dict[str, Any]) -> GroupState:
    """The state that was encoded.

    Raises:
        ValueError: it is of another version of this program.
    """
    return TypeAdapter(GroupState).validate_python(message)


def describe(node: int, error: JobError, everywhere: bool = False) -> NodeFailure:
    """A failure as it is told, with the node it happened on."""
    text = redact(str(error))
    trace = redact(error.trace) if isinstance(error, InternalError) else ""
    message = text if text.startswith("node ") else f"node {node}: {text}"
    return NodeFailure(node, error.kind, message, trace, everywhere)


def as_error(failure: NodeFailure) -> JobError:
    """With what a node ends that was told of a failure.

    A lost node, a hang and a request to stop mean the same to all; else only the node that failed ends with the cause.
    """
    if failure.everywhere or failure.kind in (HangTimeout.kind, Preempted.kind):
        return by_kind(failure.kind, failure.message, failure.trace)
    return PeerFailed(failure.message)
