"""Workers that wait for their task, and their environment variables."""

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
TIMEOUTS = WorkerTimeouts(hang_seconds=60, grace_seconds=30)


INSTANCES = ("MIG-11111111", "MIG-22222222")


@pytest.fixture
def environments(monkeypatch):
    """The environment of each worker that is started; the workers exit at once."""
    started = []

    def start(_, env, **options):
        started.append(env)
        return Process(["true"], env=env, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


@pytest.fixture
def task(tmp_path, tiny_model):
    """A task for the role verify."""
    from sentence_transformers import SentenceTransformer

    from mnrl_job.worker.verify import record_probes

    shutil.copytree(tiny_model, tmp_path / "run" / "model")
    record_probes(SentenceTransformer(str(tiny_model)), tmp_path / "run" / "verification.json")
    return WorkerTask(Settings(), "", tmp_path, tmp_path / "run", (), {})


def test_a_worker_that_is_killed_while_it_waits_for_its_task_is_replaced(task, tmp_path):
    with start_workers("verify", tmp_path, Devices(gpus=(), workers=1), TIMEOUTS) as workers:
        (worker,) = workers.processes
        worker.kill()
        worker.wait()
        result = workers.run(task, "verified.json", Verification)
    assert result.reloaded


def test_workers_without_a_task_exit_without_running(task, tmp_path):
    write_record(tmp_path / "task.json", task)
    with start_workers("verify", tmp_path, Devices(gpus=(), workers=2), TIMEOUTS) as workers:
        assert [worker.poll() for worker in workers.processes] == [None, None]
    assert all(worker.returncode for worker in workers.processes)
    assert not (tmp_path / "verified.json").exists()


def test_the_failure_of_a_rank_is_reported_while_lower_ranks_are_stuck(task, tmp_path):
    write_record(tmp_path / "rank-1.json", WorkerError(OutOfMemory.kind, "no memory", "", time.monotonic()))
    bodies = ["import time; time.sleep(60)", f"raise SystemExit({OutOfMemory.code})"]
    processes = [subprocess.Popen([sys.executable, "-c", body]) for body in bodies]
    timeouts = WorkerTimeouts(hang_seconds=1, grace_seconds=30)
    try:
        with pytest.raises(OutOfMemory):
            WorkerGroup("train", Devices((), workers=2), timeouts, processes, tmp_path, 0).run_once(
                task, "", Verification
            )
    finally:
        processes[0].kill()
        processes[0].wait()


@pytest.mark.parametrize("names", [("0", "1"), ("5", "7", "9"), INSTANCES, ("GPU-a", "GPU-b")])
def test_each_worker_has_one_visible_gpu_with_index_0(tmp_path, environments, names):
    """Libraries use `LOCAL_RANK` as the index of the visible device."""
    with start_workers("train", tmp_path, Devices(names, workers=2), TIMEOUTS):
        pass
    assert [environ["CUDA_VISIBLE_DEVICES"] for environ in environments] == [*names[:2]]
    assert [environ["LOCAL_RANK"] for environ in environments] == ["0", "0"]
    assert [environ["RANK"] for environ in environments] == ["0", "1"]
    assert [first_of_machine(environ) for environ in environments] == [True, False]
    assert {environ["WORLD_SIZE"] for environ in environments} == {"2"}
    assert not any("ACCELERATE_USE_CPU" in environ for environ in environments)
    assert {environ.get("NCCL_MULTI_RANK_GPU_ENABLE") for environ in environments} == {
        "1" if names is INSTANCES else None
    }


def test_without_gpus_workers_use_the_cpu(tmp_path, environments):
    with start_workers("train", tmp_path, Devices((), workers=2), TIMEOUTS):
        pass
    assert [environ["LOCAL_RANK"] for environ in environments] == ["0", "1"]
    assert [first_of_machine(environ) for environ in environments] == [True, False]
    assert all(environ["ACCELERATE_USE_CPU"] for environ in environments)
    assert not any("PYTORCH_ALLOC_CONF" in environ for environ in environments)


def test_a_single_worker_uses_one_of_several_gpus(tmp_path, environments):
    with start_workers("verify", tmp_path, Devices(("0", "1"), workers=1), TIMEOUTS):
        pass
    assert [environ["CUDA_VISIBLE_DEVICES"] for environ in environments] == ["0"]
    assert first_of_machine(environments[0])


def test_gpu_memory_uses_expandable_segments_unless_the_user_configures_it(monkeypatch):
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
