"""Whatever happens to a run, its exit code and `failure.json` tell the truth, and nothing is left running."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.runs import make_scene, orphans, workers_of
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import BUCKET


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tiny_model):
    return make_scene(tmp_path_factory.mktemp("failures"), tiny_model)


@pytest.fixture(scope="module")
def undisturbed(scene):
    assert scene.run("whole") == 0, scene.log("whole")[-3000:]
    return scene.outcome("whole")


def test_workers_that_hang_are_stopped_and_say_where_they_stand(scene):
    process = scene.start("hangs", MNRL_NUM_PROCESSES="2", MNRL_HANG_TIMEOUT="3s")
    scene.until(process, "hangs", scene.has_checkpoint("hangs"))
    workers_of(process, "train")[1].suspend()
    assert process.wait(60) == 71
    failure = scene.failure("hangs")
    assert (failure["class"], failure["retry_helps"], failure["phase"]) == ("hang", True, "train")
    assert failure["step"] > 0
    assert "s (MNRL_HANG_TIMEOUT=3s): worker 0 stood at train, step " in failure["message"]
    assert "in train_role" in scene.log("hangs")  # the traceback of the one that could still print
    assert orphans(scene) == []
    assert scene.run("hangs", MNRL_NUM_PROCESSES="2") == 0
    assert scene.metrics("hangs")["run"]["attempts"][0]["outcome"] == "hang"


def test_a_worker_that_is_killed_ends_the_run(scene):
    name, settings = "killed", {"MNRL_NUM_PROCESSES": "2"}
    process = scene.start(name, **settings)
    scene.until(process, name, scene.has_checkpoint(name))
    workers_of(process, "train")[-1].kill()
    assert process.wait(60) == 70
    assert "worker 1 was killed by SIGKILL" in scene.failure(name)["message"]
    assert orphans(scene) == []


def test_a_loss_that_is_no_number_names_the_step_and_its_rows(scene):
    assert scene.run("nan", MNRL_LEARNING_RATE="1", MNRL_WEIGHT_DECAY="1e30", MNRL_WARMUP="0") == 81
    failure = scene.failure("nan")
    assert failure["class"] == "diverged"
    assert len(failure["rows"]) == 8
    assert f"the loss became nan at step {failure['step']}, whose 8 rows begin with the anchors " in failure["message"]
    assert repr(failure["rows"][0]) in failure["message"]


@pytest.fixture
def small_disk(tmp_path):
    """A work folder with room for the inputs, and not for a checkpoint."""
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", tmp_path]).returncode:
        pytest.skip("may not mount a small disk here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_full_work_folder_has_the_code_of_the_environment(scene, small_disk):
    assert scene.run("full", MNRL_WORK_DIR=str(small_disk)) == 78, scene.log("full")[-3000:]
    assert "name a larger MNRL_WORK_DIR" in scene.log("full").splitlines()[-1]
    assert orphans(scene) == []


def test_so_has_one_that_is_full_from_the_start(scene, small_disk):
    with suppress(OSError), (small_disk / "filler").open("wb") as filler:
        while filler.write(bytes(4096)):
            filler.flush()
    assert scene.run("brimming", MNRL_WORK_DIR=str(small_disk)) == 78, scene.log("brimming")[-3000:]
    assert "No space left on device; free space, or name a larger MNRL_WORK_DIR" in scene.log("brimming")


@pytest.fixture
def small_memory():
    """A memory control group of 300 MB; gives the file that takes processes in."""
    group = Path("/sys/fs/cgroup/memory/mnrl-job-test")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("300000000")
    except OSError:
        pytest.skip("may not limit memory here")
    yield group / "cgroup.procs"
    group.rmdir()


def test_a_worker_that_the_kernel_killed_for_memory_has_the_code_of_memory(scene, small_memory):
    process = scene.start("oom")
    small_memory.write_text(str(process.pid))
    assert process.wait(60) == 79, scene.log("oom")[-3000:]
    assert "the container's memory is used up" in scene.log("oom").splitlines()[-1]
    assert orphans(scene) == []


def test_storage_that_is_gone_for_a_while_does_not_stop_the_training(scene, rclone):
    with proxied(rclone) as proxy:
        output = {"MNRL_OUTPUT": f"s3://{BUCKET}/gone", **proxy.environment}
        process = scene.start("gone", **output)
        scene.until(process, "gone", lambda: any(".claims" not in one and "PUT" in one for one in proxy.seen))
        proxy.faults = [Fault("status", r"PUT .*checkpoints/step", times=1_000_000, status=503)]
        scene.until(process, "gone", scene.says("gone", "is not uploaded yet"))
        proxy.faults = []
        assert process.wait(120) == 0, scene.log("gone")[-3000:]
    names = {name.removeprefix("gone/gone/") for name in rclone.objects("gone/")}
    assert "_SUCCESS" in names
    assert not [name for name in names if name.startswith("checkpoints/")]


def answers_sigterm(pid):
    """Python itself needs a moment to start."""
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return int(caught, 16) >> (signal.SIGTERM - 1) & 1


# `make chaos` stops runs in each of their phases.
MOMENTS = ["the program begins", "workers begin", "after training, faq"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stop_at_any_moment_loses_nothing(scene, undisturbed, moment):
    name = f"moment-{MOMENTS.index(moment)}"
    process = scene.start(name)
    if moment == "the program begins":
        scene.until(process, name, lambda: answers_sigterm(process.pid))
    elif moment == "workers begin":
        scene.until(process, name, lambda: workers_of(process, "train"))
    else:
        scene.until(process, name, scene.says(name, moment))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.01)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)  # an impatient scheduler
    assert process.wait(30) == 75, scene.log(name)[-3000:]
    assert orphans(scene) == []
    assert not (scene.place(name) / "_SUCCESS").exists()
    assert scene.run(name) == 0, scene.log(name)[-3000:]
    assert scene.outcome(name) == undisturbed


def test_progress_and_a_short_grace_period_are_told_and_it_is_done_only_at_the_end(scene, tmp_path):
    reports, seen = [], []

    class Controller(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            reports.append((self.headers["Authorization"], json.loads(body)["trainerStatus"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    controller = HTTPServer(("127.0.0.1", 0), Controller)
    threading.Thread(target=controller.serve_forever, args=(0.05,), daemon=True).start()
    (tmp_path / "token").write_text("secret\n")
    told = {
        "KUBEFLOW_TRAINER_SERVER_URL": f"http://127.0.0.1:{controller.server_port}/status",
        "KUBEFLOW_TRAINER_SERVER_TOKEN": str(tmp_path / "token"),
        "MNRL_WORK_DIR": str(tmp_path / "work"),
        "MNRL_EPOCHS": "300",
        "MNRL_GRACE_PERIOD": "1s",
    }
    process = scene.start("told", **told)
    while process.poll() is None:
        path = tmp_path / "work" / "progress.json"
        seen += [json.loads(path.read_text())] if path.exists() else []
        time.sleep(0.05)
    assert process.returncode == 0
    controller.shutdown()
    seen.append(json.loads(path.read_text()))
    phases = list(dict.fromkeys(one["phase"] for one in seen))
    assert {"train", "verify", "done"} <= set(phases)
    assert all(one["percent"] < 100 for one in seen if one["phase"] != "done")
    assert (seen[-1]["phase"], seen[-1]["percent"], seen[-1]["step"]) == ("done", 100, 900)
    training = [one for one in seen if one["phase"] == "train" and "loss" in one]
    assert {"of", "eta_seconds", "loss", "pairs_per_second", "gpu_memory_bytes", "updated_at"} <= set(training[0])
    assert {token for token, _ in reports} == {"Bearer secret"}
    assert [status["progressPercentage"] for _, status in reports][-1] == 100
    done = {"name": "phase", "value": "done"}
    assert [
        status for _, status in reports if (status["progressPercentage"] == 100) != (done in status["metrics"])
    ] == []
    early, _, late = scene.log("told").partition("longer than MNRL_GRACE_PERIOD (1 s)")
    assert "after training, faq" in late
    assert "after training, faq" not in early
