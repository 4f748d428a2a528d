"""The workers of this node, started, monitored, stopped and restarted by torch elastic's agent."""

import os
import signal
import subprocess
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
# For the other workers to exit by themselves after one failed.
SIBLINGS_SECONDS = 2.0
# Node 0 decides whether another round starts.
UNLIMITED = 1_000_000_000


class WorkerAgent(LocalElasticAgent):
    """Torch's agent; it restarts workers only for another round of the group."""

    def __init__(self, task: AgentTask, group: NodeGroup, rendezvous: RendezvousHandler) -> None:
        program, *arguments = task.command
        spec = WorkerSpec(
            role="train",
            local_world_size=len(task.identities),
            rdzv_handler=rendezvous,
            entrypoint=program,
            args=tuple(arguments),
            max_restarts=UNLIMITED,
            monitor_interval=POLL_SECONDS,
        )
        super().__init__(spec, DefaultLogsSpecs(os.devnull), shutdown_timeout=int(task.stop_seconds))
        self._task = task
        self._group = group
        self._oom_kills = oom_kills()
        # All nodes have the same number of workers, so ranks can be computed without communication.
        os.environ |= {"TORCH_ELASTIC_WORKER_IDENTICAL": "1", SUPERVISOR: str(os.getpid())}
        os.environ[IDENTITIES] = dumps(task.identities)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        for path in self._task.worker_files.glob("rank-*.json"):
            path.unlink()
        os.environ[ROUND] = str(self._group.round)
        processes: dict[int, Any] = super()._start_workers(worker_group)
        return processes

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        try:
            self._group.check()
        except JobError as error:
            self._stop_for_failure(error)
            raise
        if self._group.is_broken():
            return RunResult(WorkerState.UNHEALTHY)
        if any(self._exit_codes()):
            self._stop_siblings()
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed() and (failure := self._failure()):
            raise failure
        return result

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        if self._group.is_broken():
            self._shutdown(signal.SIGKILL, timeout=0)  # workers that wait for a lost node do not react to SIGTERM
        else:
            self._shutdown(signal.SIGTERM, timeout=self._shutdown_timeout)
        for path in self._task.heartbeats:
            path.unlink(missing_ok=True)  # of this round, not of the next

    def _exit_barrier(self) -> None:
        """The agent waits for node 0 instead."""

    def failure_on_signal(self, error: SignalException) -> JobError:
        """The failure after a signal: a preemption, unless the workers failed otherwise than by a broken connection."""
        if any(self._task.worker_files.glob("rank-*.json")):
            failure = root_cause(self._task.worker_files, self._exit_codes())
            if describe(self._group.nodes.rank, failure).is_explained:
                return failure
            warn(f"workers failed after {error.sigval.name}: {first_line(failure)}")
        return stopped_by(error.sigval.name)

    def _stop_for_failure(self, error: JobError) -> None:
        if isinstance(error, Preempted):  # they save a checkpoint
            self._shutdown(signal.SIGTERM, timeout=self._shutdown_timeout)
            return
        if self._group.is_hung():
            pids = (process.pid for process in self._processes() if process.poll() is None)
            dump_stacks(pids, self._task.worker_files)
        self._shutdown(signal.SIGKILL, timeout=0)

    def _failure(self) -> JobError | None:
        """The failure that this node exits with after its workers failed; None if another round follows."""
        failure = root_cause(self._task.worker_files, self._exit_codes(), oom_kills() - self._oom_kills)
        if isinstance(failure, Preempted) and self._group.nodes.is_elastic:
            return None  # since another node leaves or joins; this one was not preempted
        return self._group.resolve_worker_failure(failure)

    def _stop_siblings(self) -> None:
        deadline = time.monotonic() + SIBLINGS_SECONDS
        while time.monotonic() < deadline and None in self._exit_codes():
            time.sleep(POLL_SECONDS)
        if self._pcontext and None in self._exit_codes():
            # After a preemption the others may still be saving the checkpoint.
            is_saving = Preempted.code in self._exit_codes()
            death = signal.SIGTERM if is_saving else signal.SIGKILL
            self._pcontext.close(death, timeout=self._shutdown_timeout if is_saving else 0)

    def _exit_codes(self) -> list[int | None]:
        return [process.poll() for process in self._processes()]

    def _processes(self) -> list[subprocess.Popen[bytes]]:
        handlers = getattr(self._pcontext, "subprocess_handlers", {})
        return [handler.proc for _, handler in sorted(handlers.items())]
