"""Whatever happens to a run, its exit code and `failure.json` tell the truth, and nothing is left running."""

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
from tests.scenes import PATIENCE_SECONDS, make_scene, orphans, workers_of
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import BUCKET

# To be seen while it trains, which is looked at twice a second, also on a fast machine.
LONG_ENOUGH = {"MNRL_EPOCHS": "100"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tiny_model):
    return make_scene(tmp_path_factory.mktemp("failures"), tiny_model)


def told_of(scene):
    """How the attempts at a run that has not succeeded yet ended, one after the other."""
    attempts = [json.loads(path.read_text()) for path in scene.place("ended").glob("checkpoints/attempts/*.json")]
    return [one["outcome"] for one in sorted(attempts, key=lambda one: one["started_at"])]


def test_workers_that_hang_or_are_killed_end_the_run_and_it_goes_on(scene):
    name, settings = "ended", {"MNRL_NUM_PROCESSES": "2"}
    process = scene.start(name, **settings, MNRL_HANG_TIMEOUT="5s")
    scene.until(process, name, scene.has_checkpoint(name))
    workers_of(process, "train")[1].suspend()
    assert process.wait(PATIENCE_SECONDS) == 71
    failure = scene.failure(name)
    assert (failure["class"], failure["retry_helps"], failure["phase"]) == ("hang", True, "train")
    assert failure["step"] > 0
    assert re.search(r"\d s \(MNRL_HANG_TIMEOUT=5s\): worker 0 .*\btrain, step \d", failure["message"])
    assert "in train_role" in scene.log(name)  # the traceback of the one that could still print
    assert orphans(scene) == []

    process = scene.start(name, log="again", **settings)
    scene.until(process, "again", scene.says("again", "training on"))
    workers_of(process, "train")[-1].kill()
    assert process.wait(PATIENCE_SECONDS) == 70
    assert "resuming from step" in scene.log("again")
    assert re.search(r"\bworker 1 .*SIGKILL", scene.failure(name)["message"])
    assert scene.failure(name)["message"] in scene.log("again").splitlines()[-1]
    assert orphans(scene) == []
    assert told_of(scene) == ["hang", "internal"]
    assert not (scene.place(name) / "_SUCCESS").exists()


def test_a_killed_supervisor_takes_its_workers_along(scene):
    process = scene.start("headless", fresh=True, MNRL_EPOCHS="3000")
    scene.until(process, "headless", scene.says("headless", "training on"))
    workers = [*workers_of(process, "train"), *workers_of(process, "verify")]
    assert len(workers) == 2
    process.kill()
    process.wait(PATIENCE_SECONDS)
    _, left = psutil.wait_procs(workers, timeout=10)
    for one in left:
        one.kill()
    assert left == []


def test_a_loss_that_is_no_number_names_the_step_and_its_rows_from_two_workers(scene):
    diverging = {"MNRL_LEARNING_RATE": "1", "MNRL_WEIGHT_DECAY": "1e30", "MNRL_WARMUP_RATIO": "0"}
    assert scene.run("nan", **diverging, MNRL_NUM_PROCESSES="2") == 81, scene.log("nan")[-3000:]
    failure = scene.failure("nan")
    assert failure["class"] == "diverged"
    assert len(failure["rows"]) == 8
    assert re.search(rf"\bnan at step {failure['step']}\b.*\b8 rows ", failure["message"])
    assert repr(failure["rows"][0]) in failure["message"]
    assert failure["message"] in scene.log("nan").splitlines()[-1]
    assert "Traceback" not in scene.log("nan")
    assert not (scene.place("nan") / "_SUCCESS").exists()


def fill(disk):
    with suppress(OSError), (disk / "filler").open("wb") as filler:
        while filler.write(bytes(4096)):
            filler.flush()


def test_one_with_too_little_room_is_told_before_anything_is_fetched(scene, small_disk):
    (small_disk / "filler").write_bytes(bytes(3_000_000))
    assert scene.run("tight", MNRL_WORK_DIR=str(small_disk)) == 78, scene.log("tight")[-3000:]
    assert scene.failure("tight")["phase"] == "fetch"
    assert " GB needed; free space, or name a larger MNRL_WORK_DIR" in scene.log("tight")


def test_a_full_work_folder_has_the_code_of_the_environment(scene, small_disk):
    process = scene.start("full", MNRL_WORK_DIR=str(small_disk))
    scene.until(process, "full", scene.says("full", "training on"))
    fill(small_disk)
    assert process.wait(PATIENCE_SECONDS) == 78, scene.log("full")[-3000:]
    assert "MNRL_WORK_DIR" in scene.log("full").splitlines()[-1]
    assert orphans(scene) == []


def test_so_has_one_that_is_full_from_the_start(scene, small_disk):
    fill(small_disk)
    assert scene.run("brimming", MNRL_WORK_DIR=str(small_disk)) == 78, scene.log("brimming")[-3000:]
    assert re.search("No space left on device.*MNRL_WORK_DIR", scene.log("brimming"))


@pytest.fixture
def small_memory():
    """A control group of 300 MB; gives the file that takes processes in."""
    with control_group("memory", "memory.limit_in_bytes", 300_000_000) as processes:
        yield processes


def test_a_worker_that_the_kernel_killed_for_memory_has_the_code_of_memory(scene, small_memory):
    process = scene.start("oom", fresh=True)  # what is shared with other processes would count as theirs
    small_memory.write_text(str(process.pid))
    assert process.wait(PATIENCE_SECONDS) == 79, scene.log("oom")[-3000:]
    assert "memory is used up" in scene.log("oom").splitlines()[-1]
    assert orphans(scene) == []


def test_storage_that_is_gone_for_a_while_does_not_stop_the_training(scene, rclone):
    with proxied(rclone) as proxy:
        output = {"MNRL_OUTPUT": f"s3://{BUCKET}/gone", **proxy.environment, "AWS_MAX_ATTEMPTS": "2"}
        process = scene.start("gone", **output)
        scene.until(process, "gone", lambda: any(".leases" not in one and "PUT" in one for one in proxy.seen))
        proxy.faults = [Fault("status", r"PUT .*checkpoints/step", times=1_000_000, status=503)]
        scene.until(process, "gone", scene.says("gone", "cannot upload the checkpoint"))
        proxy.faults = []
        assert process.wait(PATIENCE_SECONDS) == 0, scene.log("gone")[-3000:]
    names = {name.removeprefix("gone/gone/") for name in rclone.objects("gone/")}
    assert "_SUCCESS" in names
    assert not [name for name in names if name.startswith("checkpoints/")]


def answers_sigterm(pid):
    """Python itself needs a moment to start."""
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return int(caught, 16) >> (signal.SIGTERM - 1) & 1


def test_a_stop_while_the_program_still_imports_is_one_in_order(tmp_path):
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
        said = starting.stderr.read()
    assert starting.returncode == 75, said
    assert "preempted" in said.splitlines()[-1]


# `make chaos` stops runs in each of their phases.
@pytest.mark.usefixtures("watched")
def test_a_stop_at_any_moment_loses_nothing(scene):
    name = "stopped"
    for moment in ("the program begins", "workers begin", "after training, faq"):
        process = scene.start(name, fresh=moment == "the program begins", **LONG_ENOUGH)
        if moment == "the program begins":
            scene.until(process, name, lambda running=process: answers_sigterm(running.pid))
        elif moment == "workers begin":
            scene.until(process, name, lambda running=process: workers_of(running, "train"))
        else:
            scene.until(process, name, scene.says(name, moment))
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # an impatient scheduler
        assert process.wait(PATIENCE_SECONDS) == 75, scene.log(name)[-3000:]
        assert orphans(scene) == []
        assert not (scene.place(name) / "_SUCCESS").exists()
    assert scene.run(name, **LONG_ENOUGH) == 0, scene.log(name)[-3000:]
    assert scene.outcome(name) == scene.outcome("told")


@dataclass(frozen=True)
class Watched:
    """What was seen of a run while it went on, by who looked at its progress and by who was told of it."""

    seen: list[dict[str, Any]]
    reports: list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def watched(scene, tmp_path_factory):
    """The run `told`, which nothing disturbs: its progress file, and what it reported to a Kubeflow controller."""
    reports, seen = [], []

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
    told = {
        "KUBEFLOW_TRAINER_SERVER_URL": f"http://127.0.0.1:{controller.server_port}/status",
        "KUBEFLOW_TRAINER_SERVER_TOKEN": str(folder / "token"),
        "MNRL_WORK_DIR": str(folder / "work"),
        "MNRL_GRACE_PERIOD": "1s",
    }
    process = scene.start("told", **told, **LONG_ENOUGH)
    path = folder / "work" / "progress.json"
    while process.poll() is None:
        seen += [json.loads(path.read_text())] if path.exists() else []
        time.sleep(0.05)
    assert process.returncode == 0, scene.log("told")[-3000:]
    controller.shutdown()
    return Watched([*seen, json.loads(path.read_text())], reports)


def test_progress_is_told_and_it_is_done_only_at_the_end(watched):
    seen = watched.seen
    assert {"train", "verify", "done"} <= {one["phase"] for one in seen}
    assert all(one["percent"] < 100 for one in seen if one["phase"] != "done")
    assert (seen[-1]["phase"], seen[-1]["percent"], seen[-1]["step"]) == ("done", 100, 300)
    training = [one for one in seen if one["phase"] == "train" and "loss" in one]
    assert {"total_steps", "eta_seconds", "loss", "pairs_per_second", "gpu_memory_bytes", "updated_at"} <= set(
        training[0]
    )
    assert {token for token, _ in watched.reports} == {"Bearer secret"}
    statuses = [status for _, status in watched.reports]
    assert statuses[-1]["progressPercentage"] == 100
    done = {"name": "phase", "value": "done"}
    assert [one for one in statuses if (one["progressPercentage"] == 100) != (done in one["metrics"])] == []


@pytest.mark.usefixtures("watched")
def test_a_grace_period_that_is_too_short_is_told_before_training_ends(scene):
    early, _, late = scene.log("told").partition("longer than MNRL_GRACE_PERIOD (1 s)")
    assert "after training, faq" in late
    assert "after training, faq" not in early
