"""The supervisor's side of the node agent: it starts the agent, sends it messages, and waits for the other nodes.

The agent is a torch process (`mnrl_job.agent`). It reads messages as JSON lines from its standard input, answers in the
file `status.json`, and writes an error file if it fails, as a worker does.
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
from mnrl_job.launch.error_files import ERROR_FILE, root_cause
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
# Folder of the workers' heartbeats and error files.
WORKERS = "workers"
# For the agent to exchange the last messages with the other nodes.
AGENT_EXIT_SECONDS = 15.0
# Instead of the name of a checkpoint.
NEWEST = "newest"
# Not an option of the agent's command line, which every user of the machine can read.
SECRET = "MNRL_JOB_GROUP_SECRET"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, slots=True)
class AgentTask:
    """Arguments of an agent: the `command` of a worker, and environment variables of each (`identities`).

    In seconds: a node without a heartbeat for `node_timeout` is lost, nodes have `join_timeout` to join, without
    progress for `hang_seconds` the run is aborted, a worker has `stop_seconds` between SIGTERM and SIGKILL.
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
        """File of the agent's `AgentStatus`."""
        return self.folder / "status.json"

    @property
    def worker_files(self) -> Path:
        return self.folder / WORKERS

    @property
    def heartbeats(self) -> tuple[Path, ...]:
        """Heartbeat files of the workers, by rank."""
        return tuple(Path(identity[heartbeat.FILE]) for identity in self.identities)


@dataclass(frozen=True, slots=True)
class SupervisorMessage:
    """A message to the agent: the data is prepared, the requested task is written, or the run failed or is published.

    The workers of the task resume from `checkpoint`; `failure` has `kind`, `message` and `trace`.
    """

    fingerprint: Fingerprint | None = None
    task_request: int = 0
    checkpoint: str | None = None
    failure: dict[str, Any] = field(default_factory=dict)
    is_published: bool = False


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """Status of the agent. `task_request` counts the tasks requested, one for each round of workers.

    The requested round resumes from `checkpoint`; None starts from the beginning. While it is waiting for other nodes,
    no workers are running.
    """

    task_request: int = 0
    checkpoint: str | None = None
    is_waiting: bool = True
    has_trained: bool = False
    is_published: bool = False


@contextmanager
def start_node_agent(task: AgentTask, devices: Devices, timeouts: WorkerTimeouts, secret: str) -> Iterator["NodeAgent"]:
    """Join the other nodes of the run; the context ends when the run has ended on all of them.

    Raises:
        JobError: the failure that this node exits with, which may be another node's.
    """
    if task.nodes.is_first and not secret:
        warn(f"MNRL_GROUP_SECRET is not set: anyone who can reach port {task.nodes.port} can join this run")
    agent = NodeAgent(task, _start(task, devices, secret), timeouts)
    try:
        yield agent
        agent.finish()
    except Exception as error:
        own = error if isinstance(error, JobError) else InternalError(f"{type(error).__name__}: {error}")
        final = agent.fail(own)
        if type(final) is type(own) and str(final) == str(own):
            raise
        raise final from error
    finally:
        stop([agent.process], timeouts)


class NodeAgent:
    """The agent of this node, as its supervisor sees it."""

    def __init__(self, task: AgentTask, process: subprocess.Popen[bytes], timeouts: WorkerTimeouts) -> None:
        self.process = process
        self._task = task
        self._timeouts = timeouts
        self._answered = 0

    @contextmanager
    def stopped_on_preemption(self) -> Iterator["NodeAgent"]:
        """On preemption, let the workers save a checkpoint before anything else is stopped."""
        try:
            yield self
        except Preempted:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(self._timeouts.grace_seconds)
            raise

    def check(self) -> None:
        """Return while the agent is running.

        Raises:
            JobError: why it exited.
        """
        raise_if_stop_requested()
        if self.process.poll() is not None:
            raise self._exit_error()

    def train(
        self,
        task: WorkerTask,
        fingerprint: Fingerprint,
        resume: Callable[[WorkerTask, str | None], WorkerTask],
        result_type: type[Record],
    ) -> Record:
        """Train with the workers of all nodes, in as many rounds as needed.

        `fingerprint` is compared with the other nodes'. `resume` returns the task of a round, given the name of the
        checkpoint to resume from.
        """
        self._send(SupervisorMessage(fingerprint=fingerprint))
        last: list[dict[str, Any]] = []
        while not (status := self._status()).has_trained:
            self.check()
            last = self._pass_on_progress(status, last)
            if status.task_request > self._answered:
                round_task = resume(task, status.checkpoint)
                write_record(task.scratch / TASK, round_task)
                self._answered = status.task_request
                checkpoint = round_task.resume.name if round_task.resume else None
                self._send(SupervisorMessage(task_request=status.task_request, checkpoint=checkpoint))
            time.sleep(POLL_SECONDS)
        return read_record(task.scratch / "result.json", result_type)

    def _pass_on_progress(self, status: AgentStatus, last: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Pass on the first worker's heartbeat if any worker's has changed. Waiting for other nodes is not a hang."""
        joining = [{"phase": Phase.JOIN}]
        current = joining if status.is_waiting else [*map(heartbeat.last_heartbeat, self._task.heartbeats)]
        if current != last or status.is_waiting:
            self._timeouts.on_heartbeat(current[0])
        return current

    def wait_until_published(self) -> None:
        """Return once node 0 has published the run.

        Raises:
            JobError: it failed or was lost.
        """
        log("this node has finished; waiting for node 0 to report and publish")
        while not self._status().is_published:
            self.check()
            time.sleep(POLL_SECONDS)

    def finish(self) -> None:
        """Report to all nodes that the run is published."""
        self._send(SupervisorMessage(is_published=True))
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(AGENT_EXIT_SECONDS)

    def fail(self, failure: JobError) -> JobError:
        """Report a failure to the other nodes. Returns the failure that this node exits with."""
        trace = failure.trace if isinstance(failure, InternalError) else ""
        self._send(SupervisorMessage(failure={"kind": failure.kind, "message": str(failure), "trace": trace}))
        try:
            self.process.wait(AGENT_EXIT_SECONDS + self._task.node_timeout)
        except subprocess.TimeoutExpired:
            return failure
        if self.process.returncode == -signal.SIGTERM:  # before it could handle the signal
            return failure
        final = self._exit_error()
        return failure if final.kind == failure.kind else final

    def _exit_error(self) -> JobError:
        code = self.process.returncode
        if code == 0:
            return InternalError("this node's agent exited before the run ended")
        return root_cause(self._task.folder, [code])

    def _status(self) -> AgentStatus:
        try:
            return read_record(self._task.status, AgentStatus)
        except FileNotFoundError:
            return AgentStatus()

    def _send(self, message: SupervisorMessage) -> None:
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has exited; `check` raises why
                self.process.stdin.write(dumps(asdict(message)).encode() + b"\n")
                self.process.stdin.flush()


def _start(task: AgentTask, devices: Devices, secret: str) -> subprocess.Popen[bytes]:
    task.worker_files.mkdir(parents=True)
    path = task.folder / "task.json"
    write_record(path, task)
    environment = worker_environment(devices) | {
        SUPERVISOR: str(os.getpid()),
        ERROR_FILE: str(task.folder / "rank-0.json"),
        SECRET: secret,
    }
    if "GLOO_SOCKET_IFNAME" not in environment and (interface := interface_to(task.nodes.master_addr)):
        environment["GLOO_SOCKET_IFNAME"] = interface
    command = [sys.executable, "-m", "mnrl_job.agent", str(path)]
    with defer_preemption():  # an exception here would leave the new process running
        return subprocess.Popen(command, env=environment, start_new_session=True, stdin=subprocess.PIPE, stdout=STDERR)
