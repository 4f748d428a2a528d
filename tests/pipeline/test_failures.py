"""Failures of whole runs: the exit code and `failure.json` are right, and no process is left running."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.control_groups import control_group
from tests.program import clean_environment, command
from tests.scenes import TIMEOUT_SECONDS, make_scene, orphans, workers_of
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import BUCKET

# The status is polled twice a second; long enough to see the training on a fast machine.
LONG_ENOUGH = {"MNRL_EPOCHS": "100"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tiny_model):
    return make_scene(tmp_path_factory.mktemp("failures"), tiny_model)


def attempt_outcomes(scene, run_id):
    """The outcomes of the attempts at a run that has not succeeded yet, in order."""
    attempts = [json.loads(path.read_text()) for path in scene.run_folder(run_id).glob("checkpoints/attempts/*.json")]
    return [attempt["outcome"] for attempt in sorted(attempts, key=lambda attempt: attempt["started_at"])]


def test_hanging_or_killed_workers_end_the_run_and_the_next_attempt_resumes(scene):
    name, settings = "ended", {"MNRL_NUM_PROCESSES": "2"}
    process = scene.start(name, **settings, MNRL_HANG_TIMEOUT="5s")
    scene.until(process, name, scene.has_checkpoint(name))
    workers_of(process, "train")[1].suspend()
    assert process.wait(TIMEOUT_SECONDS) == 71
    failure = scene.failure(name)
    assert (failure["class"], failure["retry_helps"], failure["phase"]) == ("hang", True, "train")
    assert failure["step"] > 0
    assert re.search(r"\d s \(MNRL_HANG_TIMEOUT=5s\): worker 0 .*\btrain, step \d", failure["message"])
    assert "in train_role" in scene.log(name)  # the traceback of the worker that could still print it
    assert orphans(scene) == []

    process = scene.start(name, log="again", **settings)
    scene.until(process, "again", scene.logs("again", "training on"))
    workers_of(process, "train")[-1].kill()
    assert process.wait(TIMEOUT_SECONDS) == 70
    assert "resuming from step" in scene.log("again")
    assert re.search(r"\bworker 1 .*SIGKILL", scene.failure(name)["message"])
    assert scene.failure(name)["message"] in scene.log("again").splitlines()[-1]
    assert orphans(scene) == []
    assert attempt_outcomes(scene, name) == ["hang", "internal"]
    assert not (scene.run_folder(name) / "_SUCCESS").exists()


def test_workers_end_when_their_supervisor_is_killed(scene):
    process = scene.start("headless", fresh=True, MNRL_EPOCHS="3000")
    scene.until(process, "headless", scene.logs("headless", "training on"))
    workers = [*workers_of(process, "train"), *workers_of(process, "verify")]
    assert len(workers) == 2
    process.kill()
    process.wait(TIMEOUT_SECONDS)
    _, running = psutil.wait_procs(workers, timeout=10)
    for worker in running:
        worker.kill()
    assert running == []


def test_a_nan_loss_is_reported_with_its_step_and_the_rows_of_both_workers(scene):
    diverging = {"MNRL_LEARNING_RATE": "1", "MNRL_WEIGHT_DECAY": "1e30", "MNRL_WARMUP_RATIO": "0"}
    assert scene.run("nan", **diverging, MNRL_NUM_PROCESSES="2") == 81, scene.log("nan")[-3000:]
    failure = scene.failure("nan")
    assert failure["class"] == "diverged"
    assert len(failure["rows"]) == 8
    assert re.search(rf"\bnan at step {failure['step']}\b.*\b8 rows ", failure["message"])
    assert repr(failure["rows"][0]) in failure["message"]
    assert failure["message"] in scene.log("nan").splitlines()[-1]
    assert "Traceback" not in scene.log("nan")
    assert not (scene.run_folder("nan") / "_SUCCESS").exists()


def fill(disk):
    with suppress(OSError), (disk / "filler").open("wb") as filler:
        while filler.write(bytes(4096)):
            filler.flush()


def test_insufficient_disk_space_is_reported_before_any_download(scene, small_disk):
    (small_disk / "filler").write_bytes(bytes(3_000_000))
    assert scene.run("tight", MNRL_WORK_DIR=str(small_disk)) == 78, scene.log("tight")[-3000:]
    assert scene.failure("tight")["phase"] == "fetch"
    assert " needed; free space, or set MNRL_WORK_DIR to a larger disk" in scene.log("tight")


def test_a_work_folder_that_fills_up_ends_with_the_code_of_the_environment(scene, small_disk):
    process = scene.start("full", MNRL_WORK_DIR=str(small_disk))
    scene.until(process, "full", scene.logs("full", "training on"))
    fill(small_disk)
    assert process.wait(TIMEOUT_SECONDS) == 78, scene.log("full")[-3000:]
    assert "MNRL_WORK_DIR" in scene.log("full").splitlines()[-1]
    assert orphans(scene) == []


def test_a_work_folder_that_is_full_from_the_start_ends_with_the_code_of_the_environment(scene, small_disk):
    fill(small_disk)
    assert scene.run("brimming", MNRL_WORK_DIR=str(small_disk)) == 78, scene.log("brimming")[-3000:]
    assert re.search("No space left on device.*MNRL_WORK_DIR", scene.log("brimming"))


@pytest.fixture
def small_memory():
    """A control group of 300 MB. Yields the file to which process ids are written."""
    with control_group("memory", "memory.limit_in_bytes", 300_000_000) as processes:
        yield processes


def test_a_worker_killed_by_the_oom_killer_ends_the_run_with_the_code_of_memory(scene, small_memory):
    process = scene.start("oom", fresh=True)  # memory shared with other processes would be charged to them
    small_memory.write_text(str(process.pid))
    assert process.wait(TIMEOUT_SECONDS) == 79, scene.log("oom")[-3000:]
    assert "the container is out of memory" in scene.log("oom").splitlines()[-1]
    assert orphans(scene) == []


def test_a_storage_outage_does_not_stop_the_training(scene, rclone):
    with proxied(rclone) as proxy:
        output = {"MNRL_OUTPUT": f"s3://{BUCKET}/gone", **proxy.environment, "AWS_MAX_ATTEMPTS": "2"}
        process = scene.start("gone", **output)
        scene.until(
            process, "gone", lambda: any(".leases" not in request and "PUT" in request for request in proxy.seen)
        )
        proxy.faults = [Fault("status", r"PUT .*checkpoints/step", times=1_000_000, status=503)]
        scene.until(process, "gone", scene.logs("gone", "cannot write the checkpoint"))
        proxy.faults = []
        assert process.wait(TIMEOUT_SECONDS) == 0, scene.log("gone")[-3000:]
    names = {name.removeprefix("gone/gone/") for name in rclone.objects("gone/")}
    assert "_SUCCESS" in names
    assert not [name for name in names if name.startswith("checkpoints/")]


def handles_sigterm(pid):
    """False while Python itself starts."""
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return int(caught, 16) >> (signal.SIGTERM - 1) & 1


def test_preemption_during_imports_ends_with_its_code(tmp_path):
    starting = subprocess.Popen(
        [sys.executable, "-X", "importtime", *command("train")[1:]],
        cwd=tmp_path,
        env=clean_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    with starting:
        while "pydantic" not in (line := starting.stderr.readline()):
            assert line
        starting.send_signal(signal.SIGTERM)
        output = starting.stderr.read()
    assert starting.returncode == 75, output
    assert "preempted" in output.splitlines()[-1]


# `make chaos` preempts runs in each of their phases.
@pytest.mark.usefixtures("watched")
def test_preemption_at_any_moment_loses_nothing(scene):
    name = "stopped"
    for moment in ("the program begins", "workers begin", "after training, faq"):
        process = scene.start(name, fresh=moment == "the program begins", **LONG_ENOUGH)
        if moment == "the program begins":
            scene.until(process, name, lambda running=process: handles_sigterm(running.pid))
        elif moment == "workers begin":
            scene.until(process, name, lambda running=process: workers_of(running, "train"))
        else:
            scene.until(process, name, scene.logs(name, moment))
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # an impatient scheduler
        assert process.wait(TIMEOUT_SECONDS) == 75, scene.log(name)[-3000:]
        assert orphans(scene) == []
        assert not (scene.run_folder(name) / "_SUCCESS").exists()
    assert scene.run(name, **LONG_ENOUGH) == 0, scene.log(name)[-3000:]
    assert scene.outcome(name) == scene.outcome("watched")


@dataclass(frozen=True)
class Watched:
    """The contents of a run's `progress.json` over time, and its reports to Kubeflow, each with its token."""

    progress: list[dict[str, Any]]
    reports: list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def watched(scene, tmp_path_factory):
    """The run `watched`, which is not interrupted: its progress, and its reports to a Kubeflow controller."""
    reports, progress = [], []

    class Controller(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            reports.append((self.headers["Authorization"], json.loads(body)["trainerStatus"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    folder = tmp_path_factory.mktemp("watched")
    controller = HTTPServer(("127.0.0.1", 0), Controller)
    threading.Thread(target=controller.serve_forever, args=(0.05,), daemon=True).start()
    (folder / "token").write_text("secret\n")
    settings = {
        "KUBEFLOW_TRAINER_SERVER_URL": f"http://127.0.0.1:{controller.server_port}/status",
        "KUBEFLOW_TRAINER_SERVER_TOKEN": str(folder / "token"),
        "MNRL_WORK_DIR": str(folder / "work"),
        "MNRL_GRACE_PERIOD": "1s",
    }
    process = scene.start("watched", **settings, **LONG_ENOUGH)
    path = folder / "work" / "progress.json"
    while process.poll() is None:
        progress += [json.loads(path.read_text())] if path.exists() else []
        time.sleep(0.05)
    assert process.returncode == 0, scene.log("watched")[-3000:]
    controller.shutdown()
    return Watched([*progress, json.loads(path.read_text())], reports)


def test_progress_is_reported_and_reaches_100_percent_only_at_the_end(watched):
    progress = watched.progress
    assert {"train", "verify", "done"} <= {report["phase"] for report in progress}
    assert all(report["percent"] < 100 for report in progress if report["phase"] != "done")
    assert (progress[-1]["phase"], progress[-1]["percent"], progress[-1]["step"]) == ("done", 100, 300)
    training = [report for report in progress if report["phase"] == "train" and "loss" in report]
    assert {"total_steps", "eta_seconds", "loss", "pairs_per_second", "gpu_memory_bytes", "updated_at"} <= set(
        training[0]
    )
    assert {token for token, _ in watched.reports} == {"Bearer secret"}
    statuses = [status for _, status in watched.reports]
    assert statuses[-1]["progressPercentage"] == 100
    done = {"name": "phase", "value": "done"}
    assert all((status["progressPercentage"] == 100) == (done in status["metrics"]) for status in statuses)


@pytest.mark.usefixtures("watched")
def test_a_grace_period_that_is_too_short_is_warned_of_before_training_ends(scene):
    before_warning, _, after_warning = scene.log("watched").partition("longer than MNRL_GRACE_PERIOD (1 s)")
    assert "after training, faq" in after_warning
    assert "after training, faq" not in before_warning
