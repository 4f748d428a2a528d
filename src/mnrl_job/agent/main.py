"""The agent: join the other nodes, wait for this node's data, train together, wait until the run is published."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException

from mnrl_job.agent.host import HostGroup
from mnrl_job.agent.messages import GroupTimeouts
from mnrl_job.agent.node_group import CLOSING_SECONDS, NodeGroup
from mnrl_job.agent.peer import PeerGroup
from mnrl_job.agent.rendezvous import GroupRendezvous
from mnrl_job.agent.signed_store import SignedStore
from mnrl_job.agent.store import connect, serve
from mnrl_job.agent.supervisor import Supervisor
from mnrl_job.agent.workers import WorkerAgent
from mnrl_job.errors import HangTimeout, JobError, as_job_error
from mnrl_job.launch.error_files import worker_main
from mnrl_job.launch.node_agent import SECRET, AgentTask
from mnrl_job.system import logs
from mnrl_job.system.heartbeat import last_heartbeat
from mnrl_job.system.preemption import stopped_by
from mnrl_job.system.record_files import read_record

POLL_SECONDS = 0.05


def main() -> None:
    """Run the agent; this function exits the process."""
    task = read_record(Path(sys.argv[1]), AgentTask)
    secret = os.environ.pop(SECRET, "")  # workers inherit the environment
    logs.set_up(task.log_format)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we log the same
    signal.signal(signal.SIGTERM, _stop)
    worker_main(partial(join_run, task, secret), lambda _error: None)


def join_run(task: AgentTask, secret: str) -> None:
    """Take part in the run.

    Raises:
        JobError: the failure that this node exits with.
    """
    nodes, supervisor = task.nodes, Supervisor(task.status)
    server = serve(nodes.port, task.node_timeout, supervisor.check) if nodes.is_first else None
    host = "localhost" if server else nodes.master_addr
    open_store = partial(connect, (host, nodes.port), task.node_timeout)
    group = None
    try:
        # A separate connection, so that heartbeats never wait for another request.
        group = _join(task, secret, open_store(task.join_timeout, supervisor.check), supervisor.check)
        group.report(fingerprint=supervisor.wait_for_fingerprint(group.check))
        _train(task, group, open_store(task.join_timeout, supervisor.check), supervisor)
        group.report(has_trained=True)
        supervisor.update(has_trained=True)
        _wait_until_published(group, supervisor)
    except Exception as error:
        failure = _as_failure(error)
        if group is None and not isinstance(failure, HangTimeout):
            with suppress(JobError):  # only to report the failure, if node 0 can be reached soon
                short = replace(task, join_timeout=CLOSING_SECONDS)
                group = _join(short, secret, open_store(CLOSING_SECONDS, _no_check), _no_check)
        raise (group.resolve_root_cause(failure) if group else failure) from error
    finally:
        if group:
            group.close()


def _join(task: AgentTask, secret: str, store: dist.Store, check: Callable[[], None]) -> NodeGroup:
    messages = SignedStore(store, task.run_id, secret)
    timeouts = GroupTimeouts(task.node_timeout, task.join_timeout, task.hang_seconds)
    group_type = HostGroup if task.nodes.is_first else PeerGroup
    group = group_type(task.nodes, messages, timeouts, lambda: tuple(map(last_heartbeat, task.heartbeats)))
    group.open(check)
    return group


def _no_check() -> None:
    """A node that has failed already waits without checking."""


def _train(task: AgentTask, group: NodeGroup, store: dist.Store, supervisor: Supervisor) -> None:
    agent = WorkerAgent(task, group, GroupRendezvous(group, store, supervisor, task.run_id))
    try:
        agent.run()
    except SignalException as error:
        raise agent.failure_on_signal(error) from error


def _wait_until_published(group: NodeGroup, supervisor: Supervisor) -> None:
    if isinstance(group, HostGroup):
        supervisor.wait_until_published(group.check)
        group.publish()
        return
    while not group.state.is_published:
        group.check()
        supervisor.check()
        time.sleep(POLL_SECONDS)
    supervisor.update(is_published=True)


def _stop(number: int, _frame: FrameType | None) -> None:
    """Until workers are started; then torch's agent handles the signal and forwards it to them."""
    raise stopped_by(signal.Signals(number).name)


def _as_failure(error: Exception) -> JobError:
    return stopped_by(error.sigval.name) if isinstance(error, SignalException) else as_job_error(error)
