"""The heartbeats that a node's supervisor passes on: only those that are progress."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.launch import node_agent
from mnrl_job.launch.fingerprint import Fingerprint
from mnrl_job.launch.node_agent import AgentStatus, AgentTask, NodeAgent
from mnrl_job.launch.nodes import Nodes
from mnrl_job.launch.run_identity import RunIdentity
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system import heartbeat
from mnrl_job.system.json_text import dumps
from mnrl_job.system.phases import Phase
from mnrl_job.system.record_files import write_record
from mnrl_job.worker.results import Verification

RESULT = Verification(True, 8, 0.0, 1e-4, (1, 8))
PHASE = "phase"


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train with a fake agent, given its status and heartbeats at each poll; returns those passed on at each."""
    heartbeat_files = [tmp_path / "heartbeat-0.json", tmp_path / "heartbeat-1.json"]
    task = AgentTask(
        nodes=Nodes(2, 2),
        run_id="run",
        folder=tmp_path,
        command=(),
        identities=tuple({heartbeat.FILE: str(path)} for path in heartbeat_files),
        node_timeout=1,
        join_timeout=1,
        hang_seconds=1,
        stop_seconds=1,
        log_format="text",
    )
    write_record(tmp_path / "result.json", RESULT)

    def train(*polls):
        passed_on = [[]]
        remaining = iter(polls)

        def poll(_seconds=0.0):
            status, *heartbeats = next(remaining, (AgentStatus(has_trained=True),))
            write_record(task.status, status)
            for path, current in zip(heartbeat_files, heartbeats, strict=False):
                path.write_text(dumps(current))
            passed_on.append([])

        monkeypatch.setattr(node_agent, "time", SimpleNamespace(sleep=poll))
        process = SimpleNamespace(poll=lambda: None, stdin=None)
        agent = NodeAgent(task, process, WorkerTimeouts(1, 1, lambda heartbeat: passed_on[-1].append(heartbeat)))
        worker_task = WorkerTask(Settings(), "", tmp_path, tmp_path, (), {})
        poll()
        result = agent.train(worker_task, Fingerprint(RunIdentity({}, {}), {}, 1), lambda task, _: task, Verification)
        assert result == RESULT
        return passed_on[1:-1]

    return train


def test_an_unchanged_heartbeat_is_passed_on_once_so_that_a_hang_is_detected(train):
    running = AgentStatus(task_request=1, is_waiting=False)
    first, second = ({PHASE: "train", "heartbeats": beats, "step": 4, "total_steps": 9} for beats in (1, 2))
    polls = [(running, first), (running, first), (running, second), (running, second), (running, second)]
    assert train(*polls) == [[first], [], [second], [], []]


def test_waiting_for_other_nodes_counts_as_progress_in_every_round(train):
    waiting = AgentStatus(is_waiting=True)
    running = AgentStatus(task_request=1, is_waiting=False)
    again = replace(running, is_waiting=True)
    training = {PHASE: "train", "heartbeats": 1, "step": 4, "total_steps": 9}
    join = {PHASE: Phase.JOIN}
    polls = [(waiting,), (waiting,), (running, training), (again,), (again,)]
    assert train(*polls) == [[join], [join], [training], [join], [join]]


def test_progress_of_any_worker_is_passed_on_as_the_heartbeat_of_the_first(train):
    running = AgentStatus(task_request=1, is_waiting=False)
    first, *second = ({PHASE: "train", "heartbeats": beats, "step": 4, "total_steps": 9} for beats in (7, 1, 2))
    assert train(*((running, first, current) for current in (*second, second[-1]))) == [[first], [first], []]
