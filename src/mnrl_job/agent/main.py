"""The life of an agent: join the other nodes, wait for this node's data, train with all, wait for the publication."""

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
from mnrl_job.agent.node_group import FAREWELL_SECONDS, NodeGroup
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
    """The whole life of the process, which ends here."""
    task = read_record(Path(sys.argv[1]), AgentTask)
    secret = os.environ.pop(SECRET, "")  # workers inherit the environment
    logs.set_up(task.log_format)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it tells, we tell in our words
    signal.signal(signal.SIGTERM, _stop)
    worker_main(partial(take_part, task, secret), lambda _error: None)


def take_part(task: AgentTask, secret: str) -> None:
    """Do this node's part of the run.

    Raises:
        JobError: with what this node ends.
    """
    nodes, supervisor = task.nodes, Supervisor(task.status)
    server = serve(nodes.port, task.node_timeout, supervisor.check) if nodes.is_first else None
    host = "localhost" if server else nodes.master_addr
    open_store = partial(connect, (host, nodes.port), task.node_timeout)
    group = None
    try:
        # Each with a connection for itself: heartbeats wait for nothing else.
        group = _join(task, secret, open_store(task.join_timeout, supervisor.check), supervisor.check)
        group.report(fingerprint=supervisor.wait_for_training(group.check))
        _train(task, group, open_store(task.join_timeout, supervisor.check), supervisor)
        group.report(has_trained=True)
        supervisor.tell_trained()
        _wait_until_published(group, supervisor)
    except Exception as error:
        failure = _as_failure(error)
        if group is None and not isinstance(failure, HangTimeout):
            with suppress(JobError):  # only to tell the others, if node 0 can be reached soon
                soon = replace(task, join_timeout=FAREWELL_SECONDS)
                group = _join(soon, secret, open_store(FAREWELL_SECONDS, _nothing), _nothing)
        raise (group.settle(failure) if group else failure) from error
    finally:
        if group:
            group.close()


def _join(task: AgentTask, secret: str, store: dist.Store, check: Callable[[], None]) -> NodeGroup:
    messages = SignedStore(store, task.run_id, secret)
    timeouts = GroupTimeouts(task.node_timeout, task.join_timeout, task.hang_seconds)
    kind = HostGroup if task.nodes.is_first else PeerGroup
    group = kind(task.nodes, messages, timeouts, lambda: tuple(map(last_heartbeat, task.heartbeats)))
    group.open(check)
    return group


def _nothing() -> None:
    """For a node that fails already there is nothing to look at meanwhile."""


def _train(task: AgentTask, group: NodeGroup, store: dist.Store, supervisor: Supervisor) -> None:
    """Run the workers of this node, in as many rounds as it takes."""
    agent = WorkerAgent(task, group, GroupRendezvous(group, store, supervisor, task.run_id))
    try:
        agent.run()
    except SignalException as error:
        raise agent.failure_after(error) from error


def _wait_until_published(group: NodeGroup, supervisor: Supervisor) -> None:
    """Node 0 has yet to verify, report and publish."""
    if isinstance(group, HostGroup):
        supervisor.wait_until_published(group.check)
        group.publish()
        return
    while not group.state.is_published:
        group.check()
        supervisor.check()
        time.sleep(POLL_SECONDS)
    supervisor.tell_published()


def _stop(number: int, _frame: FrameType | None) -> None:
    """Before there are workers; torch's agent passes the signal on to them."""
    raise stopped_by(signal.Signals(number).name)


def _as_failure(error: Exception) -> JobError:
    return stopped_by(error.sigval.name) if isinstance(error, SignalException) else as_job_error(error)
