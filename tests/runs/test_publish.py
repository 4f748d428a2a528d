"""Publishing to a folder and to S3: whole files, hashes that hold, the marker last, nothing overwritten."""

import errno
import hashlib
import json
import os
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import pytest

from mnrl_job.errors import DataError, DeniedError, SettingsError, StorageError
from mnrl_job.runs import publish_lease
from mnrl_job.runs.publish import (
    already_published,
    clear_unfinished,
    commit_run,
    record_failure,
    remove_leftovers,
    upload,
)
from mnrl_job.runs.publish_lease import acquire_lease
from mnrl_job.storage import local
from mnrl_job.storage.base import read_bytes
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import SMALL_PIECE, objects, open_at, open_uploads, put

pytestmark = pytest.mark.usefixtures("small_pieces", "no_pauses")
FIRST = {"model/weights": os.urandom(SMALL_PIECE + 1), "metrics.json": b"{}", "only/in/first": b"1"}
SECOND = {"model/weights": os.urandom(SMALL_PIECE + 2), "metrics.json": b"{ }", "in/second": b""}
# Those of the run itself: claims are another matter.
WRITES = r"^(PUT|POST|DELETE) (?!.*\.claims)"
# How many those are for FIRST: three parts, begun and completed, two small files, manifest, failure.json, marker.
WRITTEN = 10


@pytest.fixture
def publish(tmp_path):
    """Publish files as `job.report` does; gives whether they were, or had been before."""

    def run(store, files, settings="abc"):
        staging = tmp_path / uuid.uuid4().hex
        for name, data in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(data)
        with acquire_lease(store) as claim:
            if already_published(store, settings):
                return False
            clear_unfinished(store, claim)
            manifest = {"settings_sha256": settings, "inputs": {"faq": "123"}}
            commit_run(store, claim, staging, manifest | {"files": upload(staging, store, claim, {})})
        return True

    return run


def standing(store):
    return {entry.key: read_bytes(store, entry.key) for entry in store.list_objects()}


def is_whole(store, files):
    """Whether just these files stand there, with a manifest and a marker that tell the truth."""
    found = standing(store)
    manifest = json.loads(found["manifest.json"])
    told = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    marker = json.loads(found["_SUCCESS"])
    return (
        set(found) == {*files, "manifest.json", "_SUCCESS"}
        and all(found[name] == data for name, data in files.items())
        and manifest["files"] == told
        and marker == {"manifest_sha256": hashlib.sha256(found["manifest.json"]).hexdigest()}
    )


def test_a_run_stands_there_whole_and_its_manifest_holds_size_and_hash_of_every_file(store, publish):
    assert publish(store, FIRST)
    assert is_whole(store, FIRST)
    manifest = json.loads(read_bytes(store, "manifest.json"))
    assert (manifest["settings_sha256"], manifest["inputs"]) == ("abc", {"faq": "123"})


def test_many_small_files_are_published_side_by_side(store, publish):
    files = {f"rankings/{number}": str(number).encode() for number in range(40)}
    assert publish(store, files)
    assert is_whole(store, files)


def test_files_that_come_later_are_added_to_those_that_stand_there(store, tmp_path):
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / "first").write_bytes(b"1")
    with acquire_lease(store) as claim:
        done = upload(staging, store, claim, {})
        (staging / "second").write_bytes(b"2")
        assert upload(staging, store, claim, done) == {
            "first": {"bytes": 1, "sha256": hashlib.sha256(b"1").hexdigest()},
            "second": {"bytes": 1, "sha256": hashlib.sha256(b"2").hexdigest()},
        }
    assert standing(store) == {"first": b"1", "second": b"2"}


@pytest.mark.usefixtures("server")
def test_the_manifest_is_written_after_all_files_and_the_marker_last(proxy, reach, publish):
    publish(open_at(reach(proxy)), FIRST)
    assert len([seen for seen in proxy.seen if re.search(WRITES, seen)]) == WRITTEN
    writes = [seen.split("?")[0].rpartition("/")[2] for seen in proxy.seen if re.search(WRITES, seen)]
    assert set(writes[:-3]) == {"weights", "metrics.json", "first"}
    assert writes[-3:] == ["manifest.json", "failure.json", "_SUCCESS"]


def test_a_run_that_fails_at_any_write_leaves_no_marker_and_the_next_finishes_as_if_it_were_the_first(
    server, proxy, reach, publish, monkeypatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    place = open_at(reach(proxy))
    for number in range(WRITTEN):
        store = place.join(str(number))
        proxy.faults = [Fault("delay", WRITES, times=number), Fault("status", WRITES, times=1_000_000, status=500)]
        with pytest.raises(StorageError):
            publish(store, FIRST)
        proxy.faults.clear()
        assert "_SUCCESS" not in standing(store)
        assert publish(store, SECOND)
        assert is_whole(store, SECOND)
    assert not open_uploads(server, reach(proxy))


@pytest.mark.usefixtures("server")
def test_a_lost_answer_to_any_write_does_not_keep_a_run_from_standing_there_whole(proxy, reach, publish):
    place = open_at(reach(proxy))
    for number in range(WRITTEN):
        proxy.faults = [Fault("delay", WRITES, times=number), Fault("lose", WRITES)]
        assert publish(place.join(str(number)), FIRST)
        assert proxy.faults[1].times == 0
        assert is_whole(place.join(str(number)), FIRST)


def test_a_disk_that_fails_at_any_write_leaves_no_marker_and_the_next_finishes(tmp_path, publish, monkeypatch):
    really = local._copy
    for number in range(5):
        store = local.LocalStore(tmp_path / f"out-{number}", "MNRL_OUTPUT")
        left = [None] * number

        def copy(*arguments, left=left):
            if not left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left.pop()
            really(*arguments)

        monkeypatch.setattr(local, "_copy", copy)
        with pytest.raises(StorageError, match="No space left on device"):
            publish(store, FIRST)
        assert "_SUCCESS" not in standing(store)
        monkeypatch.setattr(local, "_copy", really)
        assert publish(store, SECOND)
        assert is_whole(store, SECOND)


@pytest.mark.parametrize("names", [("link",), ("link", "rename", "replace")])
def test_a_mount_that_cannot_link_or_rename_can_be_published_to(tmp_path, publish, monkeypatch, names):
    def refused(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    for name in names:
        monkeypatch.setattr(*((os, name) if name == "link" else (Path, name)), refused)
    store = local.LocalStore(tmp_path / "out", "MNRL_OUTPUT")
    assert publish(store, FIRST)
    assert is_whole(store, FIRST)
    assert not publish(store, SECOND)


def test_what_an_earlier_attempt_left_is_cleared_and_checkpoints_are_kept(store, publish):
    left = {"model/old": b"x", "manifest.json": b"old", "checkpoints/step-10/state": b"kept", "failure.json": b"{}"}
    for key, data in left.items():
        store.write(key, data)
    assert publish(store, FIRST)
    assert read_bytes(store, "checkpoints/step-10/state") == b"kept"
    store.delete("checkpoints/step-10/state")
    assert is_whole(store, FIRST)


def test_half_uploads_of_an_attempt_that_was_killed_are_gone_after_the_next(server, uri, publish):
    key = f"{uri.removeprefix('s3://bucket/')}/model/weights"
    server.client().create_multipart_upload(Bucket="bucket", Key=key)
    assert open_uploads(server, uri)
    assert publish(open_at(uri), FIRST)
    assert not open_uploads(server, uri)


def test_a_published_run_is_known_again_and_never_overwritten(store, publish):
    assert not already_published(store, "abc")
    publish(store, FIRST)
    before = standing(store)
    assert already_published(store, "abc")
    assert not publish(store, SECOND)
    for act in (lambda: already_published(store, "def"), lambda: publish(store, SECOND, "def")):
        with pytest.raises(SettingsError, match=r"other settings.*MNRL_RUN_ID") as caught:
            act()
        assert caught.value.code == 64
    assert standing(store) == before


@pytest.mark.parametrize("manifest", [None, b"", b"{", b"[]", b'{"files": {}}'])
def test_a_marker_without_a_manifest_that_can_be_read_is_refused(store, manifest):
    store.write("_SUCCESS", b"")
    if manifest is not None:
        store.write("manifest.json", manifest)
    with pytest.raises(DataError, match=r"_SUCCESS.*manifest\.json.*MNRL_RUN_ID") as caught:
        already_published(store, "abc")
    assert caught.value.code == 65


def test_a_marker_that_may_not_be_seen_is_not_taken_for_an_unfinished_run(server, proxy, reach, publish):
    uri = reach(proxy)
    put(server, uri, {"_SUCCESS": b"", "model/weights": b"published"})
    proxy.faults = [Fault("status", "HEAD .*_SUCCESS", times=1_000_000, status=403)]
    with pytest.raises(DeniedError) as caught:
        publish(open_at(uri), FIRST)
    assert caught.value.code == 77
    assert objects(server, uri) == {"_SUCCESS": b"", "model/weights": b"published"}


def test_two_attempts_with_the_same_settings_leave_one_run_of_one_of_them(store, publish):
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(publish, [store, store], [FIRST, SECOND]))
    assert sorted(results) == [False, True]
    assert is_whole(store, FIRST if results[0] else SECOND)


def test_a_failure_is_told_in_full_but_never_beside_a_marker(store, publish):
    record_failure(store, DataError("bad row", {"rows": [3]}), {"phase": "prepare", "step": 0})
    told = {"exit_code": 65, "class": "data", "message": "bad row", "retry_helps": False}
    told |= {"phase": "prepare", "step": 0, "rows": [3]}
    assert json.loads(read_bytes(store, "failure.json")) == told
    publish(store, FIRST)
    assert store.stat("failure.json") is None
    record_failure(store, DataError("too late"), {})
    assert is_whole(store, FIRST)


def test_a_failure_that_was_written_while_another_attempt_finished_is_taken_back(server, proxy, reach):
    uri = reach(proxy)
    store = open_at(uri)
    proxy.faults = [Fault("delay", "PUT .*failure", seconds=0.5)]
    Timer(0.2, put, (server, uri, {"_SUCCESS": b""})).start()
    record_failure(store, DataError("late"), {})
    assert set(objects(server, uri)) == {"_SUCCESS"}


def test_a_failure_that_cannot_be_written_does_not_hide_what_failed(proxy, reach, tmp_path):
    proxy.faults = [Fault("status", times=1_000_000, status=403)]
    record_failure(open_at(reach(proxy)), DataError("bad row"), {})
    (tmp_path / "file").write_text("in the way")
    record_failure(local.LocalStore(tmp_path / "file" / "r1", "MNRL_OUTPUT"), DataError("bad row"), {})
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_permissions_that_are_asked_for_suffice_to_publish(moto, reach, publish):
    with proxied(moto, Fault("status", r"GET .*\?(.*&)?uploads", times=100, status=403)) as proxy:
        assert publish(open_at(reach(proxy)), FIRST)


def test_a_marker_that_arrives_corrupt_is_noticed_and_sent_again(moto, reach, publish):
    with proxied(moto, Fault("corrupt", "PUT .*_SUCCESS")) as proxy:
        publish(open_at(reach(proxy)), FIRST)
        assert is_whole(open_at(reach(proxy)), FIRST)


def test_a_lost_answer_leaves_no_open_upload(moto, reach, publish):
    with proxied(moto, Fault("lose", r"POST .*\?uploads")) as proxy:
        publish(open_at(reach(proxy)), FIRST)
        assert not open_uploads(moto, reach(proxy))


def test_what_a_killed_attempt_left_beside_a_finished_run_is_removed_without_waiting(store, publish):
    publish(store, FIRST)
    store.write(f"{publish_lease.FOLDER}/of-another-machine", b"{}")
    store.write(".probe-1", b"x")
    began = time.monotonic()
    remove_leftovers(store)
    assert time.monotonic() - began < publish_lease.LEASE / 2
    assert is_whole(store, FIRST)
    assert not [entry.key for entry in store.list_objects() if entry.key.startswith((".claims", ".probe"))]
