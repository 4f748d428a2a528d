"""Checkpoints of a run: two are retained, the newest valid one is downloaded, those of other runs are refused."""

import shutil
import threading
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from mnrl_job.errors import DataError, Preempted, SettingsError, StorageError
from mnrl_job.launch.run_identity import RunIdentity
from mnrl_job.runs import checkpoints
from mnrl_job.runs.attempt_history import AttemptHistory
from mnrl_job.runs.checkpoints import (
    FOLDER,
    fetch_newest,
    list_checkpoints,
    remove,
    remove_superseded,
    upload_checkpoints,
)
from mnrl_job.runs.status import Status
from mnrl_job.storage.manifest import write_manifest
from tests.servers.s3 import open_at

IDENTITY = RunIdentity({"batch_size": 8, "seed": 1}, {"train/faq": "abc"})


@pytest.fixture
def local(tmp_path):
    return tmp_path / "trainer"


def write(local, step):
    folder = local / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"weights of step {step}")
    write_manifest(folder, asdict(IDENTITY) | {"step": step, "total_steps": 100})


def attempt(local, store, name="a"):
    """An attempt whose trainer writes to the folder `local`; `store` opens the run's store."""
    status = Status(local.parent / "progress.json", "r", grace_seconds=30, hang_seconds=600)
    scratch = local.with_name(name)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "trainer").unlink(missing_ok=True)
    (scratch / "trainer").symlink_to(local)
    opened = {"store": lambda **_: store(), "history": AttemptHistory(name), "rerun": "start again"}
    return SimpleNamespace(scratch=scratch, status=status, **opened)


def upload(local, store, *steps, name="a"):
    for step in steps:
        with upload_checkpoints(attempt(local, lambda: store, name)):
            write(local, step)


def test_the_newest_checkpoint_is_downloaded_and_two_are_retained(store, local, tmp_path):
    upload(local, store, 9, 10, 100)
    assert list_checkpoints(store) == ["step-000000100-a", "step-000000010-a"]
    checkpoint = fetch_newest(store, tmp_path / "resumed", IDENTITY)
    assert (checkpoint.folder / "weights").read_text() == "weights of step 100"
    assert checkpoint.step == 100
    remove(store)
    assert list(store.list_objects()) == []
    assert fetch_newest(store, tmp_path / "none", IDENTITY) is None


def test_checkpoints_are_uploaded_during_training(store, local, monkeypatch):
    monkeypatch.setattr(checkpoints, "POLL_SECONDS", 0.01)
    uploaded = threading.Event()
    monkeypatch.setattr(checkpoints, "log", lambda *_: uploaded.set())
    with upload_checkpoints(attempt(local, lambda: store)):
        write(local, 5)
        assert uploaded.wait(30)
        assert list_checkpoints(store) == ["step-000000005-a"]


def test_a_checkpoint_that_the_trainer_removes_during_its_upload_is_complete_and_slow_uploads_are_warned_of(
    store, local, tmp_path, monkeypatch, caplog
):
    upload_files = checkpoints.transfer.upload

    def upload_slowly(target, files):
        if not (local / "checkpoint-30").exists():
            for step in (20, 30):
                write(local, step)
            shutil.rmtree(local / "checkpoint-10")
        return upload_files(target, files)

    monkeypatch.setattr(checkpoints.transfer, "upload", upload_slowly)
    write(local, 10)
    uploader = checkpoints._CheckpointUploader(attempt(local, lambda: store))
    uploader.upload_newest()
    assert fetch_newest(store, tmp_path / "resumed", IDENTITY).step == 10
    assert "MNRL_CHECKPOINT_INTERVAL" in caplog.text
    assert not (tmp_path / "a" / "uploading").exists()


def test_partial_uploads_are_removed_after_the_next_complete_one(store, local, monkeypatch):
    upload_files = checkpoints.transfer.upload

    def fail_before_the_manifest(target, files):
        if "manifest.json" in files:
            raise StorageError("it does not answer")
        return upload_files(target, files)

    uploader = checkpoints._CheckpointUploader(attempt(local, lambda: store))
    with monkeypatch.context() as failing:
        failing.setattr(checkpoints.transfer, "upload", fail_before_the_manifest)
        for step in (10, 20):
            write(local, step)
            uploader.upload_newest()
    store.write("checkpoints/step-000000005-killed/weights", b"in part")
    store.write("checkpoints/step-000000040-other/weights", b"being sent")
    write(local, 30)
    uploader.upload_newest()
    left = {entry.key.split("/")[1] for entry in store.list_objects("checkpoints/step-")}
    assert left == {"step-000000030-a", "step-000000040-other"}


@pytest.mark.parametrize("damage", ["changed", "partial"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(store, local, tmp_path, damage):
    upload(local, store, 10, 20)
    key = "checkpoints/step-000000020-a/weights"
    if damage == "partial":
        store.delete("checkpoints/step-000000020-a/manifest.json")
    else:
        store.write(key, b"weights of step 2O")
    assert fetch_newest(store, tmp_path / "resumed", IDENTITY).folder.name == "step-000000010-a"


def test_without_a_complete_checkpoint_only_partial_ones_of_this_attempt_are_removed(store):
    for name in ("step-000000001-mine", "step-000000002-other"):
        store.write(f"{FOLDER}/{name}/part", b"x")
    remove_superseded(store, "mine")
    assert [entry.key for entry in store.list_objects()] == [f"{FOLDER}/step-000000002-other/part"]


def test_damaged_checkpoints_are_removed_so_that_new_ones_of_earlier_steps_are_retained(store, local, tmp_path):
    upload(local, store, 80, 90)
    for step in (80, 90):
        store.write(f"checkpoints/step-0000000{step}-a/weights", b"weights of step OO")
    assert fetch_newest(store, tmp_path / "resumed", IDENTITY) is None
    upload(tmp_path / "anew", store, 10, name="b")
    assert list_checkpoints(store) == ["step-000000010-b"]


@pytest.mark.parametrize("moment", ["before its files are listed", "before its weights are read", "after"])
def test_after_another_attempt_removed_a_checkpoint_during_the_download_the_newest_is_downloaded(
    store, local, tmp_path, monkeypatch, moment
):
    upload(local, store, 10, 20)
    download, removed = checkpoints.transfer.download, []

    def download_while_it_is_removed(source, entries, folder):
        if not removed:
            removed.append(list_checkpoints(store)[0])
            left = [
                entry for entry in entries if moment != "before its files are listed" or not entry.key.endswith(".json")
            ]
            if moment == "after":
                download(source, entries, folder)
                (folder / "weights").write_bytes(b"")
            remove(store, removed[0])
            upload(tmp_path / "other", store, 30, name="b")
            return download(source, left, folder) if moment != "after" else []
        return download(source, entries, folder)

    monkeypatch.setattr(checkpoints.transfer, "download", download_while_it_is_removed)
    checkpoint = fetch_newest(store, tmp_path / "resumed", IDENTITY)
    assert (removed, checkpoint.step) == (["step-000000020-a"], 30)


def test_two_attempts_at_once_do_not_mix_their_files(store, local, tmp_path):
    upload(local, store, 10)
    upload(tmp_path / "other", store, 10, name="b")
    assert list_checkpoints(store) == ["step-000000010-b", "step-000000010-a"]


@pytest.mark.parametrize(
    ("identity", "error", "message"),
    [
        (
            RunIdentity({"batch_size": 16, "seed": 1}, IDENTITY.inputs),
            SettingsError,
            r"^MNRL_BATCH_SIZE: .*step-000000010-a .*\b8\b.*\b16\b.*MNRL_RUN_ID",
        ),
        (
            RunIdentity(IDENTITY.settings, {"train/faq": "abd"}),
            DataError,
            "^train/faq: .*step-000000010-a .*MNRL_RUN_ID",
        ),
    ],
)
def test_a_checkpoint_with_another_setting_or_other_data_is_refused_by_name(
    store, local, tmp_path, identity, error, message
):
    upload(local, store, 10)
    with pytest.raises(error, match=message):
        fetch_newest(store, tmp_path / "resumed", identity)


def test_a_storage_outage_does_not_stop_the_training_and_the_next_upload_succeeds(store, local):
    failures = []

    def fail_once():
        if failures:
            return store
        failures.append(StorageError("it does not answer"))
        raise failures[0]

    with upload_checkpoints(attempt(local, fail_once)):
        write(local, 3)
    with upload_checkpoints(attempt(local, fail_once)):
        pass
    assert list_checkpoints(store) == ["step-000000003-a"]


def test_a_preempted_run_names_the_step_it_will_resume_from(store, local):
    def preempt(folder, *steps):
        with upload_checkpoints(attempt(folder, lambda: store)):
            for step in steps:
                write(folder, step)
            raise Preempted("stopped")

    with pytest.raises(Preempted, match=r"; start again to resume from step 3$"):
        preempt(local, 3)
    with pytest.raises(Preempted, match=r"^stopped$"):
        preempt(local / "none")


def test_checkpoints_are_in_the_checkpoints_folder_of_the_run(tmp_path, local):
    upload(local, open_at(str(tmp_path / "out")), 1)
    assert (tmp_path / "out" / "checkpoints" / "step-000000001-a" / "weights").exists()
