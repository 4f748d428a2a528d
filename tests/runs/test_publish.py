"""Publishing to a folder and to S3: complete files, correct hashes, the marker last, nothing overwritten."""

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
    publish_folder,
    record_failure,
    remove_leftovers,
    upload,
)
from mnrl_job.runs.publish_lease import acquire_lease
from mnrl_job.storage import local
from mnrl_job.storage.base import read_bytes
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import SMALL_PART, objects, open_at, open_uploads, put

pytestmark = pytest.mark.usefixtures("small_parts", "no_backoff")
FIRST = {"model/weights": os.urandom(SMALL_PART + 1), "metrics.json": b"{}", "only/in/first": b"1"}
SECOND = {"model/weights": os.urandom(SMALL_PART + 2), "metrics.json": b"{ }", "in/second": b""}
# Writes of the run itself, without those of leases.
WRITES = r"^(PUT|POST|DELETE) (?!.*\.leases)"
# Their number for FIRST: a multipart upload of three parts (5), two small files, manifest, failure.json, marker.
WRITTEN = 10
MOST_SERVERS = pytest.mark.parametrize(
    "server", ["moto", pytest.param("rclone", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def publish(tmp_path):
    """Publish files as `pipeline.finalize` does. Returns False where the run was published before."""

    def run(store, files, settings="abc"):
        staging = tmp_path / uuid.uuid4().hex
        for name, data in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(data)
        with acquire_lease(store) as lease:
            if already_published(store, settings):
                return False
            clear_unfinished(store, lease)
            facts = {"settings_sha256": settings, "inputs": {"faq": "123"}}
            commit_run(store, lease, staging, facts, upload(staging, store, lease, {}))
        return True

    return run


def stored(store):
    return {entry.key: read_bytes(store, entry.key) for entry in store.list_objects()}


def is_complete(store, files):
    """Whether exactly these files are stored, with a correct manifest and marker."""
    objects = stored(store)
    manifest = json.loads(objects["manifest.json"])
    records = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    marker = json.loads(objects["_SUCCESS"])
    return (
        set(objects) == {*files, "manifest.json", "_SUCCESS"}
        and all(objects[name] == data for name, data in files.items())
        and manifest["files"] == records
        and marker == {"manifest_sha256": hashlib.sha256(objects["manifest.json"]).hexdigest()}
    )


def test_a_published_run_is_complete_and_its_manifest_has_size_and_hash_of_every_file(store, publish):
    assert publish(store, FIRST)
    assert is_complete(store, FIRST)
    manifest = json.loads(read_bytes(store, "manifest.json"))
    assert (manifest["settings_sha256"], manifest["inputs"]) == ("abc", {"faq": "123"})


def test_many_small_files_are_published(store, publish):
    files = {f"rankings/{number}": str(number).encode() for number in range(40)}
    assert publish(store, files)
    assert is_complete(store, files)


def test_files_staged_later_are_added_to_those_already_uploaded(store, tmp_path):
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / "first").write_bytes(b"1")
    with acquire_lease(store) as lease:
        done = upload(staging, store, lease, {})
        (staging / "second").write_bytes(b"2")
        assert upload(staging, store, lease, done) == {
            "first": {"bytes": 1, "sha256": hashlib.sha256(b"1").hexdigest()},
            "second": {"bytes": 1, "sha256": hashlib.sha256(b"2").hexdigest()},
        }
    assert stored(store) == {"first": b"1", "second": b"2"}


@pytest.mark.usefixtures("server")
def test_the_manifest_is_written_after_all_files_and_the_marker_last(proxy, reach, publish):
    publish(open_at(reach(proxy)), FIRST)
    assert len([seen for seen in proxy.seen if re.search(WRITES, seen)]) == WRITTEN
    writes = [seen.split("?")[0].rpartition("/")[2] for seen in proxy.seen if re.search(WRITES, seen)]
    assert set(writes[:-3]) == {"weights", "metrics.json", "first"}
    assert writes[-3:] == ["manifest.json", "failure.json", "_SUCCESS"]


@MOST_SERVERS
def test_an_attempt_that_fails_at_any_write_leaves_no_marker_and_the_next_publishes_a_complete_run(
    server, proxy, reach, publish, monkeypatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    output = open_at(reach(proxy))
    for number in range(WRITTEN):
        store = output.join(str(number))
        proxy.faults = [Fault("delay", WRITES, times=number), Fault("status", WRITES, times=1_000_000, status=500)]
        with pytest.raises(StorageError):
            publish(store, FIRST)
        proxy.faults.clear()
        assert "_SUCCESS" not in stored(store)
        assert publish(store, SECOND)
        assert is_complete(store, SECOND)
    assert not open_uploads(server, reach(proxy))


@MOST_SERVERS
@pytest.mark.usefixtures("server")
def test_a_lost_response_to_any_write_does_not_prevent_a_complete_run(proxy, reach, publish):
    output = open_at(reach(proxy))
    for number in range(WRITTEN):
        proxy.faults = [Fault("delay", WRITES, times=number), Fault("lose", WRITES)]
        assert publish(output.join(str(number)), FIRST)
        assert proxy.faults[1].times == 0
        assert is_complete(output.join(str(number)), FIRST)


def test_a_disk_that_fails_at_any_write_leaves_no_marker_and_the_next_attempt_publishes(tmp_path, publish, monkeypatch):
    copy_file = local._copy
    for number in range(5):
        store = local.LocalStore(tmp_path / f"out-{number}", "MNRL_OUTPUT")
        left = [None] * number

        def copy(*arguments, left=left):
            if not left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left.pop()
            copy_file(*arguments)

        monkeypatch.setattr(local, "_copy", copy)
        with pytest.raises(StorageError, match="No space left on device"):
            publish(store, FIRST)
        assert "_SUCCESS" not in stored(store)
        monkeypatch.setattr(local, "_copy", copy_file)
        assert publish(store, SECOND)
        assert is_complete(store, SECOND)


@pytest.mark.parametrize("names", [("link",), ("link", "rename", "replace")])
def test_a_mount_that_cannot_link_or_rename_can_be_published_to(tmp_path, publish, monkeypatch, names):
    def refused(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    for name in names:
        monkeypatch.setattr(*((os, name) if name == "link" else (Path, name)), refused)
    store = local.LocalStore(tmp_path / "out", "MNRL_OUTPUT")
    assert publish(store, FIRST)
    assert is_complete(store, FIRST)
    assert not publish(store, SECOND)


def test_files_of_an_earlier_attempt_are_removed_and_checkpoints_preserved(store, publish):
    left = {"model/old": b"x", "manifest.json": b"old", "checkpoints/step-10/state": b"kept", "failure.json": b"{}"}
    for key, data in left.items():
        store.write(key, data)
    assert publish(store, FIRST)
    assert read_bytes(store, "checkpoints/step-10/state") == b"kept"
    store.delete("checkpoints/step-10/state")
    assert is_complete(store, FIRST)


def test_incomplete_uploads_of_a_killed_attempt_are_removed_by_the_next(server, uri, publish):
    key = f"{uri.removeprefix('s3://bucket/')}/model/weights"
    server.client().create_multipart_upload(Bucket="bucket", Key=key)
    assert open_uploads(server, uri)
    assert publish(open_at(uri), FIRST)
    assert not open_uploads(server, uri)


def test_a_published_run_is_recognized_and_never_overwritten(store, publish):
    assert not already_published(store, "abc")
    publish(store, FIRST)
    before = stored(store)
    assert already_published(store, "abc")
    assert not publish(store, SECOND)
    for act in (lambda: already_published(store, "def"), lambda: publish(store, SECOND, "def")):
        with pytest.raises(SettingsError, match=r"other settings.*MNRL_RUN_ID") as caught:
            act()
        assert caught.value.code == 64
    assert stored(store) == before


@pytest.mark.parametrize("manifest", [None, b"", b"{", b"[]", b'{"files": {}}'])
def test_a_marker_without_a_readable_manifest_is_refused(store, manifest):
    store.write("_SUCCESS", b"")
    if manifest is not None:
        store.write("manifest.json", manifest)
    with pytest.raises(DataError, match=r"_SUCCESS.*manifest\.json.*MNRL_RUN_ID") as caught:
        already_published(store, "abc")
    assert caught.value.code == 65


def test_a_marker_without_read_permission_is_not_taken_for_an_unfinished_run(server, proxy, reach, publish):
    uri = reach(proxy)
    put(server, uri, {"_SUCCESS": b"", "model/weights": b"published"})
    proxy.faults = [Fault("status", "HEAD .*_SUCCESS", times=1_000_000, status=403)]
    with pytest.raises(DeniedError) as caught:
        publish(open_at(uri), FIRST)
    assert caught.value.code == 77
    assert objects(server, uri) == {"_SUCCESS": b"", "model/weights": b"published"}


def test_of_two_concurrent_attempts_with_the_same_settings_exactly_one_publishes(store, publish):
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(publish, [store, store], [FIRST, SECOND]))
    assert sorted(results) == [False, True]
    assert is_complete(store, FIRST if results[0] else SECOND)


def test_a_failure_is_recorded_with_its_details_but_never_beside_a_marker(store, publish):
    record_failure(store, DataError("bad row", {"rows": [3]}), {"phase": "prepare", "step": 0})
    failure = {"exit_code": 65, "class": "data", "message": "bad row", "retry_helps": False}
    failure |= {"phase": "prepare", "step": 0, "rows": [3]}
    assert json.loads(read_bytes(store, "failure.json")) == failure
    publish(store, FIRST)
    assert store.stat("failure.json") is None
    record_failure(store, DataError("too late"), {})
    assert is_complete(store, FIRST)


def test_a_failure_recorded_while_another_attempt_published_is_removed(server, proxy, reach):
    uri = reach(proxy)
    store = open_at(uri)
    proxy.faults = [Fault("delay", "PUT .*failure", seconds=0.5)]
    Timer(0.2, put, (server, uri, {"_SUCCESS": b""})).start()
    record_failure(store, DataError("late"), {})
    assert set(objects(server, uri)) == {"_SUCCESS"}


def test_an_error_while_recording_a_failure_does_not_hide_the_failure(proxy, reach, tmp_path):
    proxy.faults = [Fault("status", times=1_000_000, status=403)]
    record_failure(open_at(reach(proxy)), DataError("bad row"), {})
    (tmp_path / "file").write_text("in the way")
    record_failure(local.LocalStore(tmp_path / "file" / "r1", "MNRL_OUTPUT"), DataError("bad row"), {})
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_documented_permissions_suffice_to_publish(moto, reach, publish):
    with proxied(moto, Fault("status", r"GET .*\?(.*&)?uploads", times=100, status=403)) as proxy:
        assert publish(open_at(reach(proxy)), FIRST)


def test_a_corrupted_marker_is_detected_and_uploaded_again(moto, reach, publish):
    with proxied(moto, Fault("corrupt", "PUT .*_SUCCESS")) as proxy:
        publish(open_at(reach(proxy)), FIRST)
        assert is_complete(open_at(reach(proxy)), FIRST)


def test_a_lost_response_leaves_no_open_upload(moto, reach, publish):
    with proxied(moto, Fault("lose", r"POST .*\?uploads")) as proxy:
        publish(open_at(reach(proxy)), FIRST)
        assert not open_uploads(moto, reach(proxy))


def test_leftovers_of_a_killed_attempt_beside_a_published_run_are_removed_without_waiting(store, publish):
    publish(store, FIRST)
    store.write(f"{publish_lease.FOLDER}/of-another-machine", b"{}")
    store.write(".probe-1", b"x")
    started = time.monotonic()
    remove_leftovers(store)
    assert time.monotonic() - started < publish_lease.LEASE_SECONDS / 2
    assert is_complete(store, FIRST)
    assert not [entry.key for entry in store.list_objects() if entry.key.startswith((".leases", ".probe"))]


def test_of_two_attempts_that_publish_a_folder_at_once_the_first_stays(tmp_path):
    target = local.LocalStore(tmp_path / "r.exports" / "onnx", "URI")
    for name in ("first", "second"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "config.json").write_text(name)
        publish_folder(target, tmp_path / name, {"settings_sha256": "abc"})
    assert (target.root / "model" / "config.json").read_text() == "first"
    assert (target.root / "_SUCCESS").exists()
