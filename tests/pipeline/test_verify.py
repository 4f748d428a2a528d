"""`verify` of a run in a folder: which file differs, and whether the model gives the same embeddings."""

import errno
import hashlib
import json
import re
import shutil
import subprocess
import time

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.errors import EnvironmentFailure
from mnrl_job.pipeline.verify import verify
from tests.program import clean_environment, command
from tests.scenes import workers_of


@pytest.fixture
def run(published, tmp_path):
    return shutil.copytree(published.run, tmp_path / "r")


def test_a_copied_run_passes_and_additional_files_are_warned_of(mnrl_job, run):
    (run / "notes.txt").write_text("mine")
    ended = mnrl_job("verify", str(run), MNRL_WORK_DIR="work/new")
    assert ended.code == 0, ended.stderr
    assert re.search(rf"{run} .*\bmax difference \d", ended.last_line)
    assert "notes.txt " in ended.stderr


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def add_a_byte(path):
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model/model.safetensors", flip, "model/model.safetensors: has SHA-256"),
        ("metrics.json", add_a_byte, "metrics.json: has "),
        ("audit.json", lambda path: path.unlink(), "audit.json: "),
        ("manifest.json", add_a_byte, "manifest.json has SHA-256"),
        ("_SUCCESS", lambda path: path.write_text(""), "manifest.json or _SUCCESS "),
    ],
)
def test_only_the_damaged_file_is_named(mnrl_job, run, name, damage, message):
    damage(run / name)
    ended = mnrl_job("verify", str(run))
    assert ended.code == 65, ended.stderr
    assert message in ended.stderr
    assert "tokenizer" not in ended.stderr


def test_a_run_without_a_marker_and_a_missing_run_are_not_found(mnrl_job, run):
    (run / "_SUCCESS").unlink()
    unfinished = mnrl_job("verify", str(run))
    assert (unfinished.code, "never finished" in unfinished.last_line) == (66, True)
    nowhere = mnrl_job("verify", str(run / "nowhere"))
    assert (nowhere.code, "nothing is there" in nowhere.last_line) == (66, True)


def update_manifest(run, name):
    """Make manifest and marker match the file as it is now."""
    content = (run / name).read_bytes()
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    digest = hashlib.sha256((run / "manifest.json").read_bytes()).hexdigest()
    (run / "_SUCCESS").write_text(json.dumps({"manifest_sha256": digest}), encoding="utf-8")


def change_an_embedding(path):
    recorded = json.loads(path.read_text(encoding="utf-8"))
    recorded["embeddings"][0][0] += 0.5
    path.write_text(json.dumps(recorded), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("verification.json", change_an_embedding, "differ by "),
        ("model/config.json", lambda path: path.write_text("{"), "cannot be loaded: "),
    ],
)
def test_a_model_with_other_embeddings_is_distinguished_from_a_damaged_file(mnrl_job, run, name, damage, message):
    damage(run / name)
    update_manifest(run, name)
    ended = mnrl_job("verify", str(run))
    assert ended.code == 65, ended.stderr
    assert re.search(rf"{run}: every file is as published.*\b{message}", ended.last_line)


def test_a_killed_worker_is_not_reported_as_a_damaged_run(run, tmp_path):
    with subprocess.Popen(
        command("verify", str(run)), env=clean_environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as running:
        while not (workers := workers_of(running, "verify_published")):
            assert running.poll() is None
            time.sleep(0.01)
        workers[0].kill()
        _, output = running.communicate()
    assert running.returncode == 70, output
    assert "worker 0 was killed by SIGKILL" in output.splitlines()[-1]
    assert "as published" not in output


def test_a_work_folder_that_fills_up_during_verification_ends_with_the_code_of_the_environment(run, monkeypatch):
    def raise_disk_full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mnrl_job.pipeline.verify.run_workers", raise_disk_full)
    with pytest.raises(EnvironmentFailure, match="MNRL_WORK_DIR"):
        verify(str(run), Settings())
