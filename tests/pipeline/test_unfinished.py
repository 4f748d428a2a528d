"""Without a run id the same command resumes the unfinished run with the same settings and inputs."""

import json
import logging
import os
import re
import shutil
import signal

import pytest

from mnrl_job.config.reader import read_settings
from mnrl_job.config.settings import Settings
from mnrl_job.data.listing import list_available_inputs
from mnrl_job.launch.run_identity import run_identity
from mnrl_job.pipeline.inputs import input_uris
from mnrl_job.pipeline.unfinished import INPUTS, find_unfinished
from mnrl_job.runs import publish_lease
from mnrl_job.runs.attempt import start_attempt
from mnrl_job.storage import open_store
from mnrl_job.system.json_text import dumps
from tests.scenes import SETTINGS, STEPS, TIMEOUT_SECONDS, make_scene


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, tiny_model):
    """A scene with a run that was stopped by Ctrl-C after its first checkpoint; tests work on copies."""
    scene = make_scene(tmp_path_factory.mktemp("unfinished"), tiny_model)
    process = scene.start("", log="stopped")
    scene.until(process, "stopped", lambda: list(scene.folder.glob("out/*/checkpoints/step-*/manifest.json")))
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_SECONDS) == 75, scene.log("stopped")[-3000:]
    assert "start the job again to resume from step" in scene.log("stopped").splitlines()[-1]
    return scene


@pytest.fixture
def scene(stopped, tmp_path):
    """A copy of that scene, with the same modification times."""
    return type(stopped)(shutil.copytree(stopped.folder, tmp_path / "scene"))


def runs(scene):
    return sorted(path.name for path in scene.folder.glob("out/*"))


def test_the_same_command_resumes_a_stopped_run_and_says_so(scene):
    (name,) = runs(scene)
    assert scene.run("", log="again") == 0, scene.log("again")[-3000:]
    assert runs(scene) == [name]
    assert f"resuming the unfinished run {name}" in scene.log("again")
    assert "resuming from step" in scene.log("again")
    assert scene.outcome(name)[-1] == list(range(1, STEPS + 1))
    assert [attempt["outcome"] for attempt in scene.metrics(name)["run"]["attempts"]] == ["preempted", "succeeded"]


def test_a_change_that_only_the_content_shows_starts_a_new_run_and_the_old_one_is_kept(scene):
    """Also another program version, which may plan other batches, is found only after the inputs are read."""
    (name,) = runs(scene)
    pairs = scene.folder / "pairs.jsonl"
    before = pairs.stat()
    pairs.write_text(pairs.read_text().replace(" again", " AGAIN", 1))
    os.utime(pairs, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert pairs.stat().st_size == before.st_size
    assert scene.run("", log="again") == 0, scene.log("again")[-3000:]
    (line,) = [line for line in scene.log("again").splitlines() if "starting a new run" in line]
    assert f"out/{name}/checkpoints/step-" in line
    assert "was made from other data" in line
    assert len(runs(scene)) == 2
    assert scene.has_checkpoint(name)()
    assert scene.failure(name)["class"] == "preempted"


BROKEN = {"MNRL_TRAIN_DATA": "broken.jsonl"}


@pytest.mark.parametrize("run_id", ["", "new"])
def test_a_failure_before_the_first_step_leaves_no_folder_with_a_generated_id(mnrl_job, good, tmp_path, run_id):
    (tmp_path / "broken.jsonl").write_text("{")
    ended = mnrl_job("train", **good | BROKEN | {"MNRL_RUN_ID": run_id})
    assert ended.code == 65, ended.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failure_before_the_first_step_of_a_named_run_is_recorded(mnrl_job, good, tmp_path):
    (tmp_path / "broken.jsonl").write_text("{")
    assert mnrl_job("train", **good | BROKEN).code == 65
    assert json.loads((tmp_path / "out" / "r" / "failure.json").read_text())["exit_code"] == 65


def test_a_failure_before_the_first_step_keeps_the_run_that_was_to_be_resumed(scene, mnrl_job):
    (name,) = runs(scene)
    (scene.folder / "pairs.jsonl").rename(scene.folder / "gone.jsonl")
    ended = mnrl_job("train", cwd=scene.folder, **SETTINGS)
    assert ended.code == 66, ended.stderr
    assert scene.has_checkpoint(name)()
    assert scene.failure(name)["class"] == "preempted"


def test_a_run_named_new_gets_a_generated_id(tmp_path):
    with start_attempt(Settings(output=str(tmp_path), run_id="new"), pytest.fail) as attempt:
        assert re.fullmatch(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}", attempt.run_id)
        assert attempt.rerun == "start the job again without MNRL_RUN_ID=new"


@pytest.fixture(params=["folder", "moto", "rclone"])
def settings(request, reach, tmp_path, good, monkeypatch):
    """Settings whose output is a place of every kind."""
    monkeypatch.chdir(tmp_path)
    is_folder = request.param == "folder"
    output = str(tmp_path / "out") if is_folder else reach(request.getfixturevalue(request.param))
    changes = {"MNRL_RUN_ID": "", "MNRL_OUTPUT": output, "MNRL_S3_ADDRESSING_STYLE": "path"}
    return read_settings("train", {}, good | changes, {})[0]


def leave(settings, second=0, **files):
    """Leave an unfinished run of these settings, with more files. Returns its name and store."""
    name = f"20261130-1827{second:02}-{run_identity(settings, {}).settings_hash[:6]}"
    run = open_store(settings.output, "MNRL_OUTPUT", "path").join(name)
    run.write(INPUTS, dumps(list_available_inputs(input_uris(settings))).encode())
    for key, content in files.items():
        run.write(key, json.dumps(content).encode())
    return name, run


def test_the_newest_unfinished_run_is_found_among_others(settings):
    assert find_unfinished(settings) is None
    leave(settings)
    name, _ = leave(settings, 1, **{"failure.json": {"exit_code": 75}})
    leave(settings, 2, _SUCCESS={})
    _, started_by_evaluate = leave(settings, 3)
    started_by_evaluate.delete(INPUTS)
    started_by_evaluate.write("checkpoints/attempts/a.json", b"{}")
    leave(settings.model_copy(update={"seed": 7}), 4)
    output = open_store(settings.output, "MNRL_OUTPUT", "path")
    output.join("20261130-182734-named").write(INPUTS, b"{}")
    output.write("a-file", b"")
    assert find_unfinished(settings) == name


@pytest.mark.parametrize("code", [64, 65, 66, 80, 81])
@pytest.mark.parametrize("settings", ["folder"], indirect=True)
def test_a_run_that_would_end_so_again_is_not_resumed(settings, code):
    leave(settings, **{"failure.json": {"exit_code": code}})
    assert find_unfinished(settings) is None


@pytest.mark.parametrize("settings", ["folder"], indirect=True)
def test_a_run_with_other_inputs_is_passed_over_and_named(settings, pairs_file, caplog):
    older, _ = leave(settings)
    before, status = pairs_file.read_bytes(), pairs_file.stat()
    pairs_file.write_bytes(before + b"\n")
    with caplog.at_level(logging.INFO, "mnrl_job"):
        assert find_unfinished(settings) is None
    assert re.search(rf"{older} has other inputs \(train/pairs: changed from .*; starting a new run", caplog.text)
    leave(settings, 1)
    pairs_file.write_bytes(before)
    os.utime(pairs_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert find_unfinished(settings) == older


@pytest.mark.parametrize("settings", ["folder"], indirect=True)
def test_a_run_with_damaged_records_does_not_stop_another(settings):
    _, run = leave(settings)
    for damaged in (b"", b"{", b"[1]", b"null"):
        run.write(INPUTS, damaged)
        assert find_unfinished(settings) is None


def test_a_run_under_way_is_not_resumed(settings, monkeypatch):
    monkeypatch.setattr(publish_lease, "UNDER_WAY_SECONDS", 2.0)
    monkeypatch.setattr(publish_lease, "LONGEST_PAUSE_SECONDS", 0.2)
    name, run = leave(settings)
    with publish_lease.under_way(run):
        assert find_unfinished(settings) is None
    assert find_unfinished(settings) == name
