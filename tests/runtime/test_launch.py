"""Workers that wait for their task, and the environment they get."""

import shutil
import subprocess
import sys
import time

import pytest

from mnrl_job.errors import MemoryLimit
from mnrl_job.records import Verification, WorkerTask, write_record
from mnrl_job.runtime.devices import Devices
from mnrl_job.runtime.launch import Waiting, _device_environment, started
from mnrl_job.runtime.outcomes import Outcome
from mnrl_job.runtime.watch import Care
from mnrl_job.settings import Settings

CARE = Care(hang_seconds=60, grace_seconds=30)


@pytest.fixture
def task(tmp_path, tiny_model):
    """To verify a saved model."""
    from sentence_transformers import SentenceTransformer

    from mnrl_job.evaluation.verify import record_probes

    shutil.copytree(tiny_model, tmp_path / "run" / "model")
    record_probes(SentenceTransformer(str(tiny_model)), tmp_path / "run" / "verification.json")
    return WorkerTask(Settings().model_dump(mode="json"), "", tmp_path, tmp_path / "run", (), {})


def test_a_worker_that_was_killed_while_it_waited_for_its_task_is_replaced(task, tmp_path):
    with started("verify", tmp_path, Devices(gpus=0, workers=1), CARE) as waiting:
        (worker,) = waiting.processes
        worker.kill()
        worker.wait()
        found = waiting.ask(task, "verified.json", Verification)
    assert found.reloaded


def test_workers_that_were_never_asked_end_and_do_nothing(task, tmp_path):
    write_record(tmp_path / "task.json", task)
    with started("verify", tmp_path, Devices(gpus=0, workers=2), CARE) as waiting:
        assert [worker.poll() for worker in waiting.processes] == [None, None]
    assert all(worker.returncode for worker in waiting.processes)
    assert not (tmp_path / "verified.json").exists()


def test_a_rank_that_fails_ends_the_run_with_its_cause_while_the_ranks_before_it_are_stuck(task, tmp_path):
    write_record(tmp_path / "rank-1.json", Outcome(MemoryLimit.kind, "no memory", "", time.monotonic()))
    bodies = ["import time; time.sleep(60)", f"raise SystemExit({MemoryLimit.code})"]
    processes = [subprocess.Popen([sys.executable, "-c", body]) for body in bodies]
    care = Care(hang_seconds=1, grace_seconds=30)
    try:
        with pytest.raises(MemoryLimit):
            Waiting("train", Devices(gpus=0, workers=2), care, None, processes, tmp_path, 0).tell(
                task, "", Verification
            )
    finally:
        processes[0].kill()
        processes[0].wait()


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
