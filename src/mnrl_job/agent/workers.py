"""The workers of this node under torch elastic's agent, which starts, watches, stops and restarts them."""

import os
import signal
import time
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousHandler

from mnrl_job.agent.messages import describe
from mnrl_job.agent.node_group import NodeGroup
from mnrl_job.errors import JobError, Preempted, first_line
from mnrl_job.launch.error_files import root_cause
from mnrl_job.launch.node_agent import AgentTask
from mnrl_job.launch.watchdog import dump_stacks
from mnrl_job.system.json_text import dumps
from mnrl_job.system.local_rank import IDENTITIES, ROUND
from mnrl_job.system.logs import warn
from mnrl_job.system.machine import oom_kills
from mnrl_job.system.parent_death import SUPERVISOR
from mnrl_job.system.preemption import stopped_by

POLL_SECONDS = 0.1
# For the siblings of a worker that failed to end by themselves.
SIBLINGS_SECONDS = 2.0
# A round ends for many reasons, each of which is judged; none of them is limited in number.
ANY_NUMBER = 1_000_000_000


class WorkerAgent(LocalElasticAgent):
    """Torch's agent, which restarts workers only where the group goes on with other nodes."""

    def __init__(self, task: AgentTask, group: NodeGroup, rendezvous: RendezvousHandler) -> None:
        program, *arguments = task.command
        spec = WorkerSpec(
            role="train",
            local_world_size=len(task.identities),
            rdzv_handler=rendezvous,
            entrypoint=program,
            args=tuple(arguments),
            max_restarts=ANY_NUMBER,
            monitor_interval=POLL_SECONDS,
        )
        super().__init__(spec, DefaultLogsSpecs(os.devnull), shutdown_timeout=int(task.stop_seconds))
        self._task = task
        self._group = group
        self._oom_kills = oom_kills()
        # All nodes have as many workers, so ranks follow from the nodes' numbers without asking.
        os.environ |= {"TORCH_ELASTIC_WORKER_IDENTICAL": "1", SUPERVISOR: str(os.getpid())}
        os.environ[IDENTITIES] = dumps(task.identities)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        for path in self._task.outcomes.glob("rank-*.json"):
            path.unlink()
        os.environ[ROUND] = str(self._group.round)
        started: dict[int, Any] = super()._start_workers(worker_group)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        try:
            self._group.check()
        except JobError as error:
            self._end_for(error)
            raise
        if self._group.is_broken():
            return RunResult(WorkerState.UNHEALTHY)
        if any(self._codes()):
            self._end_siblings()
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed() and (failure := self._failure()):
            raise failure
        return result

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """What waits for a node that is lost does not hear a request."""
        if self._group.is_broken():
            self._shutdown(signal.SIGKILL, timeout=0)
        else:
            self._shutdown(signal.SIGTERM, timeout=self._shutdown_timeout)

    def _exit_barrier(self) -> None:
        """Node 0 says when the run is published."""

    def failure_after(self, error: SignalException) -> JobError:
        """What the workers made of a request to stop; that a connection broke meanwhile is no reason to fail."""
        if any(self._task.outcomes.glob("rank-*.json")):
            failure = root_cause(self._task.outcomes, self._codes())
            if describe(self._group.nodes.rank, failure).is_explained:
                return failure
            warn(f"asked to stop, the workers ended with {first_line(failure)}")
        return stopped_by(error.sigval.name)

    def _end_for(self, error: JobError) -> None:
        """The run ends: what waits for other nodes does not hear a request, what saves for all is let finish."""
        if isinstance(error, Preempted):
            self._shutdown(signal.SIGTERM, timeout=self._shutdown_timeout)
            return
        if self._group.hangs():
            dump_stacks(self._running())
        self._shutdown(signal.SIGKILL, timeout=0)

    def _failure(self) -> JobError | None:
        """With what this node ends, now that workers failed; None where all go on with other nodes."""
        failure = root_cause(self._task.outcomes, self._codes(), oom_kills() - self._oom_kills)
        if isinstance(failure, Preempted) and self._group.nodes.is_elastic:
            return None  # another node is to stop, or to join; here nobody asked
        return self._group.awaits_verdict(failure)

    def _end_siblings(self) -> None:
        deadline = time.monotonic() + SIBLINGS_SECONDS
        while time.monotonic() < deadline and None in self._codes():
            time.sleep(POLL_SECONDS)
        if self._pcontext and None in self._codes():
            # Those that were stopped on request may still have something to save.
            is_saving = Preempted.code in self._codes()
            death = signal.SIGTERM if is_saving else signal.SIGKILL
            self._pcontext.close(death, timeout=self._shutdown_timeout if is_saving else 0)

    def _codes(self) -> list[int | None]:
        handlers = getattr(self._pcontext, "subprocess_handlers", {})
        return [handler.proc.poll() for _, handler in sorted(handlers.items())]

    def _running(self) -> list[int]:
        handlers = getattr(self._pcontext, "subprocess_handlers", {})
        return [handler.proc.pid for handler in handlers.values() if handler.proc.poll() is None]
