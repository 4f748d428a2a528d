"""Workers that wait for their task, and which of several failures is the cause."""

import shutil
import subprocess
import sys

import pytest

from mnrl_job.errors import Diverged, InternalError
from mnrl_job.records import Verification, WorkerTask, write_record
from mnrl_job.runtime.devices import Devices
from mnrl_job.runtime.launch import Outcome, _cause, _device_environment, started
from mnrl_job.runtime.watch import Care
from mnrl_job.settings import Settings

CARE = Care(hang_seconds=60, grace_seconds=30)
ENDINGS = {
    "fails": "raise SystemExit(1)",
    "aborts": "import os; os.abort()",
    "is killed": "import os; os.kill(os.getpid(), 9)",
}


@pytest.fixture
def workers():
    def start(*endings):
        ended = [subprocess.Popen([sys.executable, "-c", ENDINGS[ending]]) for ending in endings]
        for worker in ended:
            worker.wait()
        return ended

    return start


def test_the_earliest_outcome_is_the_cause_and_later_ones_its_consequence(tmp_path, workers):
    write_record(tmp_path / "rank-0.json", Outcome("internal", "connection closed by peer", "", 2.0))
    write_record(tmp_path / "rank-1.json", Outcome("internal", "the first fault", "trace", 1.0))
    cause = _cause(tmp_path, workers("fails", "fails"))
    assert isinstance(cause, InternalError)
    assert (str(cause), cause.trace) == ("the first fault", "trace")


def test_a_sibling_that_aborts_does_not_hide_a_failure_that_explains_itself(tmp_path, workers):
    write_record(tmp_path / "rank-0.json", Outcome("internal", "connection closed by peer", "", 1.0))
    write_record(tmp_path / "rank-1.json", Outcome("diverged", "the loss became nan", "", 2.0))
    cause = _cause(tmp_path, workers("fails", "fails", "aborts"))
    assert isinstance(cause, Diverged)
    assert cause.code == 81


def test_a_killed_worker_explains_its_siblings_broken_connections(tmp_path, workers):
    write_record(tmp_path / "rank-0.json", Outcome("internal", "connection closed by peer", "", 1.0))
    assert "worker 1 was killed by SIGKILL" in str(_cause(tmp_path, workers("fails", "is killed")))


def test_a_worker_that_says_nothing_is_told_by_its_exit_code(tmp_path, workers):
    assert "exit codes [1]" in str(_cause(tmp_path, workers("fails")))


@pytest.fixture
def task(tmp_path, tiny_model):
    """To verify a saved model."""
    from sentence_transformers import SentenceTransformer

    from mnrl_job.evaluation.verify import record_probes

    shutil.copytree(tiny_model, tmp_path / "run" / "model")
    record_probes(SentenceTransformer(str(tiny_model)), tmp_path / "run" / "verification.json")
    return WorkerTask(Settings().model_dump(mode="json"), "", tmp_path, tmp_path / "run", (), {})


@pytest.mark.parametrize("killed", [False, True])
def test_a_worker_waits_for_its_task_and_is_replaced_when_it_was_killed_meanwhile(task, tmp_path, killed):
    with started("verify", tmp_path, Devices(gpus=0, workers=1), CARE) as waiting:
        (worker,) = waiting.processes
        if killed:
            worker.kill()
            worker.wait()
        found = waiting.ask(task, "verified.json", Verification)
    assert found.reloaded
    assert worker.returncode == (-9 if killed else 0)


def test_workers_that_were_never_asked_end_and_do_nothing(task, tmp_path):
    write_record(tmp_path / "task.json", task)
    with started("verify", tmp_path, Devices(gpus=0, workers=2), CARE) as waiting:
        assert [worker.poll() for worker in waiting.processes] == [None, None]
    assert all(worker.returncode for worker in waiting.processes)
    assert not (tmp_path / "verified.json").exists()


@pytest.mark.parametrize(
    ("devices", "visible", "expected"),
    [
        (Devices(gpus=0, workers=2), None, {"ACCELERATE_USE_CPU": "true"}),
        (Devices(gpus=4, workers=4), None, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}),
        (Devices(gpus=4, workers=1), None, {"CUDA_VISIBLE_DEVICES": "0"}),
        (Devices(gpus=2, workers=1), "5,7", {"CUDA_VISIBLE_DEVICES": "5"}),
    ],
)
def test_workers_see_as_many_gpus_as_there_are_workers(devices, visible, expected):
    assert _device_environment(devices, visible) == expected
