"""The failure that a node exits with after its workers failed."""

import signal
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.multiprocessing import SignalException

from mnrl_job.agent.workers import WorkerAgent
from mnrl_job.errors import InternalError, OutOfMemory, Preempted
from mnrl_job.launch.error_files import WorkerError
from mnrl_job.launch.node_agent import AgentTask
from mnrl_job.launch.nodes import Nodes
from mnrl_job.system.record_files import write_record

NODES = Nodes(2, 3, 2, "node-0")


@pytest.fixture
def agent(tmp_path, monkeypatch):
    monkeypatch.setattr("os.environ", {})  # it sets variables for its workers
    task = AgentTask(NODES, "run", tmp_path, ("worker",), ({},), 3.0, 60.0, 600.0, 20.0, "text")
    task.worker_files.mkdir()
    return WorkerAgent(task, SimpleNamespace(nodes=NODES), SimpleNamespace())


@pytest.mark.parametrize(
    ("kind", "trace", "expected"),
    [
        (InternalError.kind, "a traceback: connection reset by peer", Preempted),
        (OutOfMemory.kind, "", OutOfMemory),
        (Preempted.kind, "", Preempted),
    ],
)
def test_a_connection_that_breaks_during_a_preemption_is_not_a_failure(tmp_path, agent, kind, trace, expected):
    write_record(tmp_path / "workers" / "rank-0.json", WorkerError(kind, "message", trace, at=1.0))
    assert type(agent.failure_on_signal(SignalException("stop", signal.SIGTERM))) is expected
