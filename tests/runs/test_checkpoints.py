"""Checkpoints at the run's place: two are kept, the newest whole one is fetched, those of another run refused."""

import shutil
import threading
from types import SimpleNamespace

import pytest

from mnrl_job.errors import DataError, Preempted, SettingsError, StorageError
from mnrl_job.runs import checkpoints
from mnrl_job.runs.attempt_history import AttemptHistory
from mnrl_job.runs.checkpoints import FOLDER, fetch_newest, names, remove, remove_superfluous, upload_checkpoints
from mnrl_job.runs.status import Status
from mnrl_job.storage.manifest import write_manifest
from tests.servers.s3 import open_at

FACTS = {"settings": {"batch_size": 8, "seed": 1}, "inputs": {"train/faq": "abc"}}


@pytest.fixture
def local(tmp_path):
    return tmp_path / "trainer"


def write(local, step, facts=FACTS):
    folder = local / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"weights of step {step}")
    write_manifest(folder, facts | {"step": step, "total_steps": 100})


def attempt(local, store, name="a"):
    """An attempt that trains in the folder `local`; `store` opens the run's place."""
    status = Status(local.parent / "progress.json", "r", grace_seconds=30, hang_seconds=600)
    scratch = local.with_name(name)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "trainer").unlink(missing_ok=True)
    (scratch / "trainer").symlink_to(local)
    return SimpleNamespace(scratch=scratch, status=status, diary=AttemptHistory(name), store=lambda **_: store())


def keep(local, store, *steps, name="a"):
    for step in steps:
        with upload_checkpoints(attempt(local, lambda: store, name)):
            write(local, step)


def test_the_newest_is_fetched_and_two_are_kept(store, local, tmp_path):
    keep(local, store, 9, 10, 100)
    assert names(store) == ["step-000000100-a", "step-000000010-a"]
    found = fetch_newest(store, tmp_path / "resumed", FACTS)
    assert (found.folder / "weights").read_text() == "weights of step 100"
    assert found.step == 100
    remove(store)
    assert list(store.list_objects()) == []
    assert fetch_newest(store, tmp_path / "none", FACTS) is None


def test_while_training_goes_on_they_are_uploaded(store, local, monkeypatch):
    monkeypatch.setattr(checkpoints, "LOOK_SECONDS", 0.01)
    seen = threading.Event()
    monkeypatch.setattr(checkpoints, "log", lambda *_: seen.set())
    with upload_checkpoints(attempt(local, lambda: store)):
        write(local, 5)
        assert seen.wait(30)
        assert names(store) == ["step-000000005-a"]


def test_one_that_the_trainer_removes_while_it_is_sent_arrives_whole_and_slowness_is_told(
    store, local, tmp_path, monkeypatch, caplog
):
    upload = checkpoints.transfer.upload

    def upload_slowly(place, files):
        if not (local / "checkpoint-30").exists():
            for step in (20, 30):
                write(local, step)
            shutil.rmtree(local / "checkpoint-10")
        return upload(place, files)

    monkeypatch.setattr(checkpoints.transfer, "upload", upload_slowly)
    write(local, 10)
    keeper = checkpoints._CheckpointUploader(attempt(local, lambda: store))
    keeper.look()
    assert fetch_newest(store, tmp_path / "resumed", FACTS).step == 10
    assert "MNRL_CHECKPOINT_INTERVAL" in caplog.text
    assert not (tmp_path / "a" / "sending").exists()


def test_what_was_sent_in_part_is_removed_once_one_is_whole(store, local, monkeypatch):
    upload = checkpoints.transfer.upload

    def fail_before_the_manifest(place, files):
        if "manifest.json" in files:
            raise StorageError("it does not answer")
        return upload(place, files)

    keeper = checkpoints._CheckpointUploader(attempt(local, lambda: store))
    with monkeypatch.context() as failing:
        failing.setattr(checkpoints.transfer, "upload", fail_before_the_manifest)
        for step in (10, 20):
            write(local, step)
            keeper.look()
    store.write("checkpoints/step-000000005-killed/weights", b"in part")
    store.write("checkpoints/step-000000040-other/weights", b"being sent")
    write(local, 30)
    keeper.look()
    left = {entry.key.split("/")[1] for entry in store.list_objects("checkpoints/step-")}
    assert left == {"step-000000030-a", "step-000000040-other"}


@pytest.mark.parametrize("damage", ["changed", "partial"])
def test_a_damaged_one_is_skipped_for_the_one_before(store, local, tmp_path, damage):
    keep(local, store, 10, 20)
    key = "checkpoints/step-000000020-a/weights"
    if damage == "partial":
        store.delete("checkpoints/step-000000020-a/manifest.json")
    else:
        store.write(key, b"weights of step 2O")
    assert fetch_newest(store, tmp_path / "resumed", FACTS).folder.name == "step-000000010-a"


def test_where_none_is_whole_any_more_only_what_this_attempt_sent_is_removed(store):
    for name in ("step-000000001-mine", "step-000000002-other"):
        store.write(f"{FOLDER}/{name}/part", b"x")
    remove_superfluous(store, "mine")
    assert [entry.key for entry in store.list_objects()] == [f"{FOLDER}/step-000000002-other/part"]


def test_damaged_ones_are_removed_so_that_new_ones_of_earlier_steps_are_kept(store, local, tmp_path):
    keep(local, store, 80, 90)
    for step in (80, 90):
        store.write(f"checkpoints/step-0000000{step}-a/weights", b"weights of step OO")
    assert fetch_newest(store, tmp_path / "resumed", FACTS) is None
    keep(tmp_path / "anew", store, 10, name="b")
    assert names(store) == ["step-000000010-b"]


@pytest.mark.parametrize("moment", ["before its files are listed", "before its weights are read", "after"])
def test_one_that_another_attempt_removes_while_it_is_fetched_is_looked_for_again(
    store, local, tmp_path, monkeypatch, moment
):
    keep(local, store, 10, 20)
    download, removed = checkpoints.transfer.download, []

    def download_while_it_is_removed(place, entries, folder):
        if not removed:
            removed.append(names(store)[0])
            left = [one for one in entries if moment != "before its files are listed" or not one.key.endswith(".json")]
            if moment == "after":
                download(place, entries, folder)
                (folder / "weights").write_bytes(b"")
            remove(store, removed[0])
            keep(tmp_path / "other", store, 30, name="b")
            return download(place, left, folder) if moment != "after" else []
        return download(place, entries, folder)

    monkeypatch.setattr(checkpoints.transfer, "download", download_while_it_is_removed)
    found = fetch_newest(store, tmp_path / "resumed", FACTS)
    assert (removed, found.step) == (["step-000000020-a"], 30)


def test_two_attempts_at_once_do_not_mix_their_files(store, local, tmp_path):
    keep(local, store, 10)
    keep(tmp_path / "other", store, 10, name="b")
    assert names(store) == ["step-000000010-b", "step-000000010-a"]


@pytest.mark.parametrize(
    ("facts", "error", "told"),
    [
        (
            {"settings": {"batch_size": 16, "seed": 1}, "inputs": FACTS["inputs"]},
            SettingsError,
            r"^MNRL_BATCH_SIZE: .*step-000000010-a .*\b8\b.*\b16\b.*MNRL_RUN_ID",
        ),
        (
            {"settings": FACTS["settings"], "inputs": {"train/faq": "abd"}},
            DataError,
            "^train/faq: .*step-000000010-a .*MNRL_RUN_ID",
        ),
    ],
)
def test_another_setting_or_other_data_is_refused_by_name(store, local, tmp_path, facts, error, told):
    keep(local, store, 10)
    with pytest.raises(error, match=told):
        fetch_newest(store, tmp_path / "resumed", facts)


def test_storage_that_fails_does_not_stop_the_training_and_catches_up(store, local):
    places = [store]

    def refuse():
        if len(places) > 1:
            return store
        places.append(store)
        raise StorageError("it does not answer")

    with upload_checkpoints(attempt(local, refuse)):
        write(local, 3)
    with upload_checkpoints(attempt(local, refuse)):
        pass
    assert names(store) == ["step-000000003-a"]


def test_who_is_stopped_hears_where_it_goes_on(store, local):
    def stop(place, *steps):
        with upload_checkpoints(attempt(place, lambda: store)):
            for step in steps:
                write(place, step)
            raise Preempted("stopped")

    with pytest.raises(Preempted, match=r"\bstep 3$"):
        stop(local, 3)
    with pytest.raises(Preempted, match=r"^stopped$"):
        stop(local / "none")


def test_the_folder_of_a_store_is_reached_by_name(tmp_path, local):
    keep(local, open_at(str(tmp_path / "out")), 1)
    assert (tmp_path / "out" / "checkpoints" / "step-000000001-a" / "weights").exists()
