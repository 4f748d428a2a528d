"""`verify` on a folder: which file differs, and whether the model still says what it said."""

import errno
import hashlib
import json
import shutil

import pytest

from mnrl_job import job
from mnrl_job.errors import DeviceError
from mnrl_job.settings import Settings


@pytest.fixture
def run(published, tmp_path):
    return shutil.copytree(published.run, tmp_path / "r")


def test_a_run_as_it_was_published_passes_also_in_another_place_and_what_is_added_is_told(mnrl_job, run):
    (run / "notes.txt").write_text("mine")
    ended = mnrl_job("verify", str(run), MNRL_WORK_DIR="work/new")
    assert ended.code == 0, ended.stderr
    assert "every file has its hash; the model reloads to the same embeddings" in ended.last_line
    assert "notes.txt is not in the manifest" in ended.stderr


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def add_a_byte(path):
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("model/model.safetensors", flip, "model/model.safetensors: has SHA-256"),
        ("metrics.json", add_a_byte, "metrics.json: has "),
        ("audit.json", lambda path: path.unlink(), "audit.json: is missing"),
        ("manifest.json", add_a_byte, "manifest.json has SHA-256"),
        ("_SUCCESS", lambda path: path.write_text(""), "_SUCCESS is missing or damaged"),
    ],
)
def test_just_the_file_that_differs_is_named(mnrl_job, run, name, damage, words):
    damage(run / name)
    ended = mnrl_job("verify", str(run))
    assert ended.code == 65, ended.stderr
    assert words in ended.stderr
    assert "tokenizer" not in ended.stderr


def test_a_run_without_marker_or_not_there_is_missing(mnrl_job, run):
    (run / "_SUCCESS").unlink()
    unfinished = mnrl_job("verify", str(run))
    assert (unfinished.code, "never finished" in unfinished.last_line) == (66, True)
    nowhere = mnrl_job("verify", str(run / "nowhere"))
    assert (nowhere.code, "nothing is there" in nowhere.last_line) == (66, True)


def test_a_model_that_says_something_else_is_told_apart_from_a_damaged_file(mnrl_job, run):
    recorded = json.loads((run / "verification.json").read_text(encoding="utf-8"))
    recorded["embeddings"][0][0] += 0.5
    (run / "verification.json").write_text(json.dumps(recorded), encoding="utf-8")
    content = (run / "verification.json").read_bytes()
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"]["verification.json"] = facts
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    sealed = hashlib.sha256((run / "manifest.json").read_bytes()).hexdigest()
    (run / "_SUCCESS").write_text(json.dumps({"manifest_sha256": sealed}), encoding="utf-8")
    ended = mnrl_job("verify", str(run))
    assert ended.code == 65, ended.stderr
    assert "every file is as published, but" in ended.last_line


def test_a_work_folder_that_is_full_while_verifying_has_the_code_of_the_environment(run, monkeypatch):
    def find_no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(job, "ask_workers", find_no_room)
    with pytest.raises(DeviceError, match="name a larger MNRL_WORK_DIR"):
        job.verify_run(str(run), Settings())
