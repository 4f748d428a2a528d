"""One contract for every store: a folder, an S3 that enforces conditional writes and one that ignores them."""

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


def enforces(request):
    return "rclone" not in request.node.name


def test_everything_below_a_prefix_is_listed_at_any_depth_and_nothing_beside_it(store):
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


def test_a_place_where_nothing_was_written_is_empty(store):
    assert keys(store) == []
    assert store.stat("a") is None
    assert read_bytes(store, "a/b") is None
    store.remove_incomplete()
    store.delete("a")


def test_more_objects_than_one_answer_holds_are_all_listed(rclone, reach):
    uri = reach(rclone)
    put(rclone, uri, {f"many/{number:04}": b"" for number in range(1001)})
    assert keys(open_at(uri)) == [f"many/{number:04}" for number in range(1001)]


def test_an_object_that_is_being_overwritten_is_listed_once(store):
    over = threading.Event()

    def overwrite():
        while not over.is_set():
            store.write("a", os.urandom(100))

    store.write("a", b"")
    writer = threading.Thread(target=overwrite)
    writer.start()
    listed = [keys(store) for _ in range(100)]
    over.set()
    writer.join()
    assert listed == [["a"]] * 100


def test_an_entry_tells_size_and_a_version_that_changes_with_the_content(store):
    store.write("a", b"one")
    first = store.stat("a")
    assert (first.key, first.size) == ("a", 3)
    assert store.stat("a") == first
    store.write("a", b"two")
    assert store.stat("a").version != first.version
    assert [entry.size for entry in store.list_objects()] == [3]


def test_spans_are_read_to_the_byte(store):
    data = os.urandom(3_000_000)
    store.write("a", data)
    entry = store.stat("a")
    assert b"".join(store.read(entry)) == data
    for start, stop in [(0, 1), (1, 2_999_999), (2_999_999, 3_000_000), (5, 5), (2_000_000, None)]:
        assert b"".join(store.read(entry, start, stop)) == data[start:stop]


def test_nothing_is_read_from_an_empty_object(store):
    store.write("empty", b"")
    assert read_bytes(store, "empty") == b""


def test_what_is_written_replaces_what_was_there(store):
    store.write("deep/a", b"before, and longer")
    store.write("deep/a", b"after")
    assert read_bytes(store, "deep/a") == b"after"
    assert keys(store) == ["deep/a"]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("size", [0, 5, 1_000_000])
def test_what_is_created_once_is_not_created_again(store, request, tmp_path, size):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(os.urandom(size))
    second.write_bytes(os.urandom(size + 1))
    created = store.create("deep/a", first)
    assert created.size == size
    assert store.matches_checksum(created, first) is not False
    assert read_bytes(store, "deep/a") == first.read_bytes()
    again = store.create("deep/a", second)
    assert (again is None) == enforces(request)
    assert read_bytes(store, "deep/a") == (first if enforces(request) else second).read_bytes()


def test_the_probe_tells_whether_a_second_writer_is_refused_and_leaves_nothing(store, request):
    assert probe(store) == enforces(request)
    assert keys(store) == []


def test_bytes_are_created_as_files_are(store):
    assert store.create("a", b"bytes").size == 5
    assert read_bytes(store, "a") == b"bytes"


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_store_knows_its_objects_again_and_no_others(store, tmp_path, size):
    file = tmp_path / "file"
    file.write_bytes(os.urandom(size))
    store.create("a", file)
    assert [store.matches_checksum(entry, file) for entry in (store.stat("a"), *store.list_objects())] == [True, True]
    file.write_bytes(os.urandom(size))
    assert [store.matches_checksum(entry, file) for entry in (store.stat("a"), *store.list_objects())] == [False, False]


def test_what_is_deleted_is_gone_and_its_neighbours_stay(store):
    for key in ("a", "deep/b", "deep/er/c"):
        store.write(key, b"x")
    store.delete("deep/er/c")
    store.delete("a")
    assert keys(store) == ["deep/b"]
    store.delete("deep/b")
    assert keys(store) == []


@pytest.mark.usefixtures("no_pauses")
def test_an_object_that_became_shorter_is_never_read_as_if_it_were_whole(store):
    store.write("a", b"0123456789")
    entry = store.stat("a")
    store.write("a", b"01234")
    with pytest.raises(StorageError, match=r"/a: .*start again"):
        list(store.read(entry))


def test_half_written_uploads_are_swept_and_whole_objects_stay(server, uri):
    client, prefix = server.client(), uri.removeprefix("s3://bucket/")
    put(server, uri, {"whole": b"x"})
    for key in (f"{prefix}/a/open", f"{prefix}-beside/open"):
        begun = client.create_multipart_upload(Bucket="bucket", Key=key)
        client.upload_part(Bucket="bucket", Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"half")
    open_at(uri).remove_incomplete()
    assert [key for key in server.uploads() if key.startswith(prefix)] == [f"{prefix}-beside/open"]
    assert objects(server, uri) == {"whole": b"x"}
    open_at(f"{uri}-beside").remove_incomplete()


def test_half_written_files_are_no_objects_and_are_swept(tmp_path):
    store = LocalStore(tmp_path, "MNRL_OUTPUT: out")
    store.write("whole", b"x")
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "left").write_bytes(b"half")
    assert keys(store) == ["whole"]
    store.remove_incomplete()
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
