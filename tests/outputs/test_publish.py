"""Publishing: whole files, hashes that hold, the marker last, nothing overwritten."""

import hashlib
import json

import pytest

from mnrl_job.errors import DataError, JobError, SettingsError
from mnrl_job.outputs import publish


@pytest.fixture
def staging(tmp_path):
    folder = tmp_path / "staging"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"w" * 3_000_000)
    (folder / "metrics.json").write_text("{}", encoding="utf-8")
    return folder


def test_the_manifest_holds_size_and_hash_of_every_file(staging, tmp_path):
    run = tmp_path / "out" / "r1"
    publish.seal(run, publish.upload(staging, run, {}), "abc", {"faq": "123"})
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model/weights", "metrics.json"}
    for name, facts in manifest["files"].items():
        content = (run / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["inputs"] == {"faq": "123"}
    assert not list(run.rglob("*.partial"))


def test_a_crash_before_the_end_leaves_no_marker_and_the_next_attempt_finishes(staging, tmp_path, monkeypatch):
    run = tmp_path / "out" / "r1"
    monkeypatch.setattr(
        publish, "write_whole", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    files = publish.upload(staging, run, {})
    with pytest.raises(JobError, match="No space left"):
        publish.seal(run, files, "abc", {})
    assert not publish.already_published(run, "abc")
    monkeypatch.undo()
    publish.seal(run, publish.upload(staging, run, {}), "abc", {})
    assert publish.already_published(run, "abc")


def test_a_published_run_is_known_again_and_never_overwritten(staging, tmp_path):
    run = tmp_path / "out" / "r1"
    publish.seal(run, publish.upload(staging, run, {}), "abc", {})
    assert publish.already_published(run, "abc")
    with pytest.raises(SettingsError, match="other settings"):
        publish.already_published(run, "def")


def test_a_failure_that_cannot_be_written_does_not_hide_what_failed(tmp_path):
    (tmp_path / "file").write_text("in the way")
    publish.record_failure(tmp_path / "file" / "r1", DataError("bad row"))
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_failure_is_told_in_full_but_never_beside_a_marker(staging, tmp_path):
    run = tmp_path / "out" / "r1"
    run.mkdir(parents=True)
    publish.record_failure(run, DataError("bad row"))
    told = json.loads((run / "failure.json").read_text())
    assert told == {"exit_code": 65, "class": "data", "message": "bad row", "retry_helps": False}
    publish.seal(run, publish.upload(staging, run, {}), "abc", {})
    assert not (run / "failure.json").exists()
    publish.record_failure(run, DataError("too late"))
    assert not (run / "failure.json").exists()
