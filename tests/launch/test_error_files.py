"""The root cause of several failures of workers."""

import subprocess
import sys

import pytest

from mnrl_job.errors import Diverged, InternalError
from mnrl_job.launch.error_files import WorkerError, root_cause
from mnrl_job.system.record_files import write_record

ENDINGS = {
    "fails": "raise SystemExit(1)",
    "aborts": "import os; os.abort()",
    "is killed": "import os; os.kill(os.getpid(), 9)",
}


@pytest.fixture
def workers():
    def start(*endings):
        processes = [subprocess.Popen([sys.executable, "-c", ENDINGS[ending]]) for ending in endings]
        for worker in processes:
            worker.wait()
        return [worker.returncode for worker in processes]

    return start


def test_the_earliest_error_is_the_root_cause(tmp_path, workers):
    write_record(tmp_path / "rank-0.json", WorkerError("internal", "connection closed by peer", "", 2.0))
    write_record(tmp_path / "rank-1.json", WorkerError("internal", "the first fault", "trace", 1.0))
    error = root_cause(tmp_path, workers("fails", "fails"))
    assert isinstance(error, InternalError)
    assert (str(error), error.trace) == ("the first fault", "trace")


def test_a_worker_that_aborts_does_not_hide_the_root_cause(tmp_path, workers):
    write_record(tmp_path / "rank-0.json", WorkerError("internal", "connection closed by peer", "", 1.0))
    write_record(tmp_path / "rank-1.json", WorkerError("diverged", "the loss became nan", "", 2.0))
    error = root_cause(tmp_path, workers("fails", "fails", "aborts"))
    assert isinstance(error, Diverged)
    assert error.code == 81


def test_a_killed_worker_is_the_root_cause_of_broken_connections(tmp_path, workers):
    write_record(tmp_path / "rank-0.json", WorkerError("internal", "connection closed by peer", "", 1.0))
    assert "worker 1 was killed by SIGKILL" in str(root_cause(tmp_path, workers("fails", "is killed")))


def test_without_error_files_the_exit_codes_are_reported(tmp_path, workers):
    assert "exit codes [1]" in str(root_cause(tmp_path, workers("fails")))
