"""The supervisor's side of this node's agent: it starts it, gives it orders, and ends as the agent finds all nodes do.

The agent is a torch process (`mnrl_job.agent`). Orders go to its standard input as JSON lines; it answers in the file
`status.json`, and where it fails it leaves an error file, as a worker does.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mnrl_job.errors import InternalError, JobError, Preempted
from mnrl_job.launch.error_files import OUTCOME, root_cause
from mnrl_job.launch.fingerprint import Fingerprint
from mnrl_job.launch.nodes import Nodes, interface_to
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import STDERR, TASK, stop, worker_environment
from mnrl_job.system import heartbeat
from mnrl_job.system.devices import Devices
from mnrl_job.system.json_text import dumps
from mnrl_job.system.logs import log, warn
from mnrl_job.system.parent_death import SUPERVISOR
from mnrl_job.system.phases import Phase
from mnrl_job.system.preemption import defer_preemption, raise_if_stop_requested
from mnrl_job.system.record_files import Record, read_record, write_record

POLL_SECONDS = 0.05
# The folder of what workers leave.
WORKERS = "workers"
# For the agent to tell the other nodes, and to hear from them.
FAREWELL_SECONDS = 15.0
# Stands for the name of whichever checkpoint is the newest.
NEWEST = "newest"
# Not an option of the agent's command line, which every user of the machine can read.
SECRET = "MNRL_JOB_GROUP_SECRET"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, slots=True)
class AgentTask:
    """What an agent is to know.

    Attributes:
        nodes: who takes part, and which of them this is.
        run_id: names the run.
        folder: of this agent.
        command: of a worker.
        identities: of each worker, environment variables of its own.
        node_timeout: a node without a heartbeat for so many seconds is lost.
        join_timeout: seconds that nodes may take to join.
        hang_seconds: so long no worker may get on.
        stop_seconds: so long workers have to save, once they are asked to stop.
        log_format: as in the settings.
    """

    nodes: Nodes
    run_id: str
    folder: Path
    command: tuple[str, ...]
    identities: tuple[dict[str, str], ...]
    node_timeout: float
    join_timeout: float
    hang_seconds: float
    stop_seconds: float
    log_format: Literal["auto", "text", "json"]

    @property
    def status(self) -> Path:
        """The file with the agent's answers."""
        return self.folder / "status.json"

    @property
    def outcomes(self) -> Path:
        """The folder of what its workers leave: heartbeats, and why they failed."""
        return self.folder / WORKERS

    @property
    def heartbeats(self) -> tuple[Path, ...]:
        """The heartbeat files of the workers, by rank."""
        return tuple(Path(identity[heartbeat.FILE]) for identity in self.identities)


@dataclass(frozen=True, slots=True)
class Order:
    """A line from the supervisor. Exactly one thing is said.

    Attributes:
        fingerprint: the data is prepared, so workers can be started.
        answer: to the question of this number, the task of the next round stands there, which goes on from
            `checkpoint`.
        failure: this node failed, as `kind`, `message` and `trace`.
        is_published: the run is.
    """

    fingerprint: Fingerprint | None = None
    answer: int = 0
    checkpoint: str | None = None
    failure: dict[str, Any] = field(default_factory=dict)
    is_published: bool = False


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """How far the agent is.

    Attributes:
        question: counts its requests for the task of a next round.
        checkpoint: the name of the one that the round goes on from; None to begin at the beginning.
        has_trained: whether its workers ended well.
        is_published: whether node 0 has published the run.
    """

    question: int = 0
    checkpoint: str | None = None
    has_trained: bool = False
    is_published: bool = False


@contextmanager
def joined(task: AgentTask, devices: Devices, care: WorkerTimeouts, secret: str) -> Iterator["NodeAgent"]:
    """Have this node take part in its group, and end as all nodes do.

    Raises:
        JobError: what ended the run, as it looks from this node.
    """
    if task.nodes.is_first and not secret:
        warn(f"MNRL_GROUP_SECRET is not set: whoever reaches port {task.nodes.port} can pass for a node of this run")
    agent = NodeAgent(task, _start(task, devices, secret), care)
    try:
        yield agent
        agent.finish()
    except Exception as error:
        failure = error if isinstance(error, JobError) else InternalError(f"{type(error).__name__}: {error}")
        verdict = agent.fail(failure)
        if type(verdict) is type(failure) and str(verdict) == str(failure):
            raise
        raise verdict from error
    finally:
        stop([agent.process], care)


class NodeAgent:
    """The agent of this node, as its supervisor sees it."""

    def __init__(self, task: AgentTask, process: subprocess.Popen[bytes], care: WorkerTimeouts) -> None:
        self.process = process
        self._task = task
        self._care = care
        self._answered = 0

    @contextmanager
    def stopped_first(self) -> Iterator["NodeAgent"]:
        """On a request to stop, workers have saved before anything else is ended."""
        try:
            yield self
        except Preempted:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(self._care.grace_seconds)
            raise

    def check(self) -> None:
        """Return while the agent works.

        Raises:
            JobError: it has ended, and why.
        """
        raise_if_stop_requested()
        if self.process.poll() is not None:
            raise self._cause()

    def train(
        self,
        task: WorkerTask,
        own: Fingerprint,
        resume: Callable[[WorkerTask, str | None], WorkerTask],
        kind: type[Record],
    ) -> Record:
        """Have the workers of all nodes train, in as many rounds as that takes.

        Args:
            task: of this node's workers.
            own: what this node is about to do.
            resume: gives the task of a round, given the name of the checkpoint that it goes on from.
            kind: of the result.
        """
        self._order(Order(fingerprint=own))
        while not (status := self._status()).has_trained:
            self.check()
            # It may wait long for others, and must not look as if it stood still.
            has_joined = status.question > 0
            self._care.on_heartbeat(
                heartbeat.last_heartbeat(self._task.heartbeats[0]) if has_joined else {"phase": Phase.JOIN}
            )
            if status.question > self._answered:
                this_round = resume(task, status.checkpoint)
                write_record(task.scratch / TASK, this_round)
                self._answered = status.question
                name = this_round.resume.name if this_round.resume else None
                self._order(Order(answer=status.question, checkpoint=name))
            time.sleep(POLL_SECONDS)
        return read_record(task.scratch / "result.json", kind)

    def wait_until_published(self) -> None:
        """Return once node 0 has published.

        Raises:
            JobError: it failed or is lost.
        """
        log("the part of this node is done; node 0 reports and publishes")
        while not self._status().is_published:
            self.check()
            time.sleep(POLL_SECONDS)

    def finish(self) -> None:
        """The run is published: let all nodes know."""
        self._order(Order(is_published=True))
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(FAREWELL_SECONDS)

    def fail(self, failure: JobError) -> JobError:
        """Have the other nodes know, and learn with what this one ends."""
        trace = failure.trace if isinstance(failure, InternalError) else ""
        self._order(Order(failure={"kind": failure.kind, "message": str(failure), "trace": trace}))
        try:
            self.process.wait(FAREWELL_SECONDS + self._task.node_timeout)
        except subprocess.TimeoutExpired:
            return failure
        if self.process.returncode == -signal.SIGTERM:  # it had only begun, and knew of nothing
            return failure
        told = self._cause()
        return failure if told.kind == failure.kind else told

    def _cause(self) -> JobError:
        code = self.process.returncode
        if code == 0:
            return InternalError("this node's agent ended before the run did")
        return root_cause(self._task.folder, [code])

    def _status(self) -> AgentStatus:
        try:
            return read_record(self._task.status, AgentStatus)
        except FileNotFoundError:
            return AgentStatus()

    def _order(self, order: Order) -> None:
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended; why is asked next
                self.process.stdin.write(dumps(asdict(order)).encode() + b"\n")
                self.process.stdin.flush()


def _start(task: AgentTask, devices: Devices, secret: str) -> subprocess.Popen[bytes]:
    task.outcomes.mkdir(parents=True)
    path = task.folder / "task.json"
    write_record(path, task)
    environment = worker_environment(devices) | {
        SUPERVISOR: str(os.getpid()),
        OUTCOME: str(task.folder / "rank-0.json"),
        SECRET: secret,
    }
    if "GLOO_SOCKET_IFNAME" not in environment and (interface := interface_to(task.nodes.master_addr)):
        environment["GLOO_SOCKET_IFNAME"] = interface
    command = [sys.executable, "-m", "mnrl_job.agent", str(path)]
    with defer_preemption():  # or nobody would end an agent that has just begun
        return subprocess.Popen(command, env=environment, start_new_session=True, stdin=subprocess.PIPE, stdout=STDERR)
