"""One contract for every store: a folder, an S3 with conditional writes and one that ignores the condition."""

import os
import threading

import pytest

from mnrl_job.errors import StorageError
from mnrl_job.storage.base import read_bytes
from mnrl_job.storage.local import LocalStore
from mnrl_job.storage.probe import probe
from tests.servers.s3 import objects, open_at, put


def keys(store, prefix=""):
    return sorted(entry.key for entry in store.list_objects(prefix))


def is_conditional(request):
    return "rclone" not in request.node.name


def test_a_prefix_lists_the_objects_below_it_at_any_depth_and_no_others(store):
    odd = "f g/ü&+%41#?.txt"
    for key in ("ab", "ac/d", f"d/e/{odd}", "d/x"):
        store.write(key, key.encode())
    below = store.join("d").join("e")
    assert keys(store) == ["ab", "ac/d", f"d/e/{odd}", "d/x"]
    assert keys(store, "d/") == [f"d/e/{odd}", "d/x"]
    assert keys(store, "a") == ["ab", "ac/d"]
    assert keys(store.join("a")) == []
    assert keys(below) == [odd]
    assert read_bytes(below, odd) == f"d/e/{odd}".encode()


def test_the_folders_one_level_down_are_listed_and_nothing_else(store):
    for key in ("a", "b c/d", "b c/e/f", "ü+%41/g"):
        store.write(key, b"x")
    assert sorted(store.list_folders()) == ["b c", "ü+%41"]
    assert list(store.join("b c").list_folders()) == ["e"]


def test_a_store_without_objects_is_empty(store):
    assert keys(store) == []
    assert list(store.list_folders()) == []
    assert store.stat("a") is None
    assert read_bytes(store, "a/b") is None
    store.remove_incomplete()
    store.delete("a")


def test_a_listing_of_several_pages_is_complete(rclone, reach):
    uri = reach(rclone)
    put(rclone, uri, {f"many/{number:04}": b"" for number in range(1001)})
    assert keys(open_at(uri)) == [f"many/{number:04}" for number in range(1001)]


def test_an_object_is_listed_once_while_it_is_overwritten(store):
    finished = threading.Event()

    def overwrite():
        while not finished.is_set():
            store.write("a", os.urandom(100))

    store.write("a", b"")
    writer = threading.Thread(target=overwrite)
    writer.start()
    listings = [keys(store) for _ in range(100)]
    finished.set()
    writer.join()
    assert listings == [["a"]] * 100


def test_an_entry_has_the_size_and_a_version_that_changes_with_the_content(store):
    store.write("a", b"one")
    first = store.stat("a")
    assert (first.key, first.size) == ("a", 3)
    assert store.stat("a") == first
    store.write("a", b"two")
    assert store.stat("a").version != first.version
    assert [entry.size for entry in store.list_objects()] == [3]


def test_byte_ranges_are_read_exactly(store):
    data = os.urandom(3_000_000)
    store.write("a", data)
    entry = store.stat("a")
    assert b"".join(store.read(entry)) == data
    for start, stop in [(0, 1), (1, 2_999_999), (2_999_999, 3_000_000), (5, 5), (2_000_000, None)]:
        assert b"".join(store.read(entry, start, stop)) == data[start:stop]


def test_an_empty_object_reads_as_no_bytes(store):
    store.write("empty", b"")
    assert read_bytes(store, "empty") == b""


def test_write_replaces_an_existing_object(store):
    store.write("deep/a", b"before, and longer")
    store.write("deep/a", b"after")
    assert read_bytes(store, "deep/a") == b"after"
    assert keys(store) == ["deep/a"]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [0, 5, 1_000_000])
def test_create_does_not_replace_an_existing_object_where_writes_are_conditional(store, request, tmp_path, size):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(os.urandom(size))
    second.write_bytes(os.urandom(size + 1))
    created = store.create("deep/a", first)
    assert created.size == size
    assert store.matches_checksum(created, first) is not False
    assert read_bytes(store, "deep/a") == first.read_bytes()
    again = store.create("deep/a", second)
    assert (again is None) == is_conditional(request)
    assert read_bytes(store, "deep/a") == (first if is_conditional(request) else second).read_bytes()


def test_the_probe_detects_conditional_writes_and_leaves_no_objects(store, request):
    assert probe(store) == is_conditional(request)
    assert keys(store) == []


def test_create_accepts_bytes(store):
    assert store.create("a", b"bytes").size == 5
    assert read_bytes(store, "a") == b"bytes"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_checksums_match_the_uploaded_file_and_no_other(store, tmp_path, size):
    file = tmp_path / "file"
    file.write_bytes(os.urandom(size))
    store.create("a", file)
    assert [store.matches_checksum(entry, file) for entry in (store.stat("a"), *store.list_objects())] == [True, True]
    file.write_bytes(os.urandom(size))
    assert [store.matches_checksum(entry, file) for entry in (store.stat("a"), *store.list_objects())] == [False, False]


def test_delete_removes_the_object_and_no_others(store):
    for key in ("a", "deep/b", "deep/er/c"):
        store.write(key, b"x")
    store.delete("deep/er/c")
    store.delete("a")
    assert keys(store) == ["deep/b"]
    store.delete("deep/b")
    assert keys(store) == []


@pytest.mark.usefixtures("no_backoff")
def test_reading_an_object_that_was_truncated_is_an_error(store):
    store.write("a", b"0123456789")
    entry = store.stat("a")
    store.write("a", b"01234")
    with pytest.raises(StorageError, match=r"/a: .*start again"):
        list(store.read(entry))


def test_incomplete_uploads_are_removed_and_complete_objects_kept(server, uri):
    client, prefix = server.client(), uri.removeprefix("s3://bucket/")
    put(server, uri, {"whole": b"x"})
    for key in (f"{prefix}/a/open", f"{prefix}-beside/open"):
        upload = client.create_multipart_upload(Bucket="bucket", Key=key)
        client.upload_part(Bucket="bucket", Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"half")
    open_at(uri).remove_incomplete()
    assert [key for key in server.uploads() if key.startswith(prefix)] == [f"{prefix}-beside/open"]
    assert objects(server, uri) == {"whole": b"x"}
    open_at(f"{uri}-beside").remove_incomplete()


def test_incomplete_files_are_not_listed_and_are_removed(tmp_path):
    store = LocalStore(tmp_path, "MNRL_OUTPUT: out")
    store.write("whole", b"x")
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "left").write_bytes(b"half")
    assert keys(store) == ["whole"]
    store.remove_incomplete()
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
