"""Workers that wait for their task, and the environment they get."""

import shutil
import subprocess
import sys
import time

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.errors import OutOfMemory
from mnrl_job.launch.error_files import WorkerError
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import ALLOCATOR, WorkerGroup, start_workers, worker_environment
from mnrl_job.system.devices import Devices
from mnrl_job.system.local_rank import WORKER, is_local_main_process
from mnrl_job.system.record_files import write_record
from mnrl_job.worker.results import Verification

Process = subprocess.Popen
CARE = WorkerTimeouts(hang_seconds=60, grace_seconds=30)


INSTANCES = ("MIG-11111111", "MIG-22222222")


@pytest.fixture
def environments(monkeypatch):
    """Those that workers are started with; they end at once."""
    seen = []

    def start(_, env, **options):
        seen.append(env)
        return Process(["true"], env=env, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    return seen


@pytest.fixture
def task(tmp_path, tiny_model):
    """To verify a saved model."""
    from sentence_transformers import SentenceTransformer

    from mnrl_job.worker.verify import record_probes

    shutil.copytree(tiny_model, tmp_path / "run" / "model")
    record_probes(SentenceTransformer(str(tiny_model)), tmp_path / "run" / "verification.json")
    return WorkerTask(Settings().model_dump(mode="json"), "", tmp_path, tmp_path / "run", (), {})


def test_a_worker_that_was_killed_while_it_waited_for_its_task_is_replaced(task, tmp_path):
    with start_workers("verify", tmp_path, Devices(gpus=(), workers=1), CARE) as waiting:
        (worker,) = waiting.processes
        worker.kill()
        worker.wait()
        found = waiting.run(task, "verified.json", Verification)
    assert found.reloaded


def test_workers_that_were_never_asked_end_and_do_nothing(task, tmp_path):
    write_record(tmp_path / "task.json", task)
    with start_workers("verify", tmp_path, Devices(gpus=(), workers=2), CARE) as waiting:
        assert [worker.poll() for worker in waiting.processes] == [None, None]
    assert all(worker.returncode for worker in waiting.processes)
    assert not (tmp_path / "verified.json").exists()


def test_a_rank_that_fails_ends_the_run_with_its_cause_while_the_ranks_before_it_are_stuck(task, tmp_path):
    write_record(tmp_path / "rank-1.json", WorkerError(OutOfMemory.kind, "no memory", "", time.monotonic()))
    bodies = ["import time; time.sleep(60)", f"raise SystemExit({OutOfMemory.code})"]
    processes = [subprocess.Popen([sys.executable, "-c", body]) for body in bodies]
    care = WorkerTimeouts(hang_seconds=1, grace_seconds=30)
    try:
        with pytest.raises(OutOfMemory):
            WorkerGroup("train", Devices((), workers=2), care, processes, tmp_path, 0).tell(task, "", Verification)
    finally:
        processes[0].kill()
        processes[0].wait()


@pytest.mark.parametrize("names", [("0", "1"), ("5", "7", "9"), INSTANCES, ("GPU-a", "GPU-b")])
def test_each_worker_sees_one_gpu_which_is_its_first(tmp_path, environments, names):
    """Libraries take `LOCAL_RANK` for the number of the device among those visible."""
    with start_workers("train", tmp_path, Devices(names, workers=2), CARE):
        pass
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments] == [*names[:2]]
    assert [one["LOCAL_RANK"] for one in environments] == ["0", "0"]
    assert [one["RANK"] for one in environments] == ["0", "1"]
    assert [first_of_machine(one) for one in environments] == [True, False]
    assert {one["WORLD_SIZE"] for one in environments} == {"2"}
    assert not any("ACCELERATE_USE_CPU" in one for one in environments)
    assert {one.get("NCCL_MULTI_RANK_GPU_ENABLE") for one in environments} == {"1" if names is INSTANCES else None}


def test_without_a_gpu_workers_share_the_cpu(tmp_path, environments):
    with start_workers("train", tmp_path, Devices((), workers=2), CARE):
        pass
    assert [one["LOCAL_RANK"] for one in environments] == ["0", "1"]
    assert [first_of_machine(one) for one in environments] == [True, False]
    assert all(one["ACCELERATE_USE_CPU"] for one in environments)
    assert not any("PYTORCH_ALLOC_CONF" in one for one in environments)


def test_a_worker_alone_sees_one_of_several_gpus(tmp_path, environments):
    with start_workers("verify", tmp_path, Devices(("0", "1"), workers=1), CARE):
        pass
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments] == ["0"]
    assert first_of_machine(environments[0])


def test_memory_of_gpus_grows_in_place_unless_the_user_says_how(monkeypatch):
    for name in ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    assert worker_environment(Devices(("0",), workers=1))["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    for name in ALLOCATOR:
        monkeypatch.setenv(name, "max_split_size_mb:64")
        environment = worker_environment(Devices(("0",), workers=1))
        assert {key: environment[key] for key in ALLOCATOR & environment.keys()} == {name: "max_split_size_mb:64"}
        monkeypatch.delenv(name)


def first_of_machine(environment):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LOCAL_RANK", WORKER):
            patch.delenv(name, raising=False)
            if name in environment:
                patch.setenv(name, environment[name])
        return is_local_main_process()
