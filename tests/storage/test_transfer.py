"""Many objects down and up: every byte as it was, through every fault; cut short, continued; wrong, told."""

import hashlib
import os
import re
import string
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.errors import DataError, DeniedError, EnvironmentFailure, SettingsError, StorageError
from mnrl_job.storage import Entry, s3
from mnrl_job.storage.base import read_bytes
from mnrl_job.storage.local import LocalStore
from mnrl_job.storage.transfer import download, upload
from tests.program import run_python
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import BUCKET, SMALL_PIECE, objects, open_at, open_uploads, prefix_of, put

pytestmark = pytest.mark.usefixtures("small_pieces", "no_pauses")
ALWAYS = 1_000_000
LARGE = os.urandom(4 * SMALL_PIECE + 1)
FILES = {"large": LARGE, "deep/er/small": b"small", "ü&+%41#?.txt": b"named", "empty": b""}
DOWNLOAD = """
import sys
from pathlib import Path
from mnrl_job.storage import open_store, s3, transfer
s3.PART_SIZE = transfer.PART_SIZE = int(sys.argv[3])
store = open_store(sys.argv[1], "MNRL_TRAIN_DATA", "path")
transfer.download(store, list(store.list_objects()), Path(sys.argv[2]))
"""


def fetch_all(uri, folder):
    store = open_at(uri)
    return download(store, list(store.list_objects()), folder)


def fetched(folder):
    """What stands below a folder, but for the work in progress."""
    found = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".partial/")}


def spans(proxy, key="large"):
    """The spans of an object that were asked for, in order; `""` for the whole."""
    return sorted(seen.partition(" bytes=")[2] for seen in proxy.seen if re.match(rf"GET /bucket/\w+/{key}\b", seen))


def staged(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {name: folder / name for name in files}


def test_objects_arrive_as_they_are_and_a_large_one_in_pieces(server, proxy, reach, tmp_path):
    put(server, reach(proxy), FILES)
    files = fetch_all(reach(proxy), tmp_path / "in")
    assert fetched(tmp_path / "in") == FILES
    assert {path.relative_to(tmp_path / "in").as_posix() for path in files} == set(FILES)
    starts = range(0, len(LARGE), SMALL_PIECE)
    expected = [f"{start}-{min(start + SMALL_PIECE, len(LARGE)) - 1}" for start in starts]
    assert spans(proxy) == sorted(expected)
    assert not list((tmp_path / "in" / ".partial").glob("[0-9a-f]*"))


@pytest.mark.parametrize("sizes", [(5, 6, 1), (5, 5, 2)])
def test_an_object_is_fetched_whatever_the_sizes_of_the_parts_it_was_sent_in(server, proxy, reach, tmp_path, sizes):
    parts = [bytes([number]) * (size << 20) for number, size in enumerate(sizes)]
    put_parts(server, f"{reach(proxy)}/large", parts)
    fetch_all(reach(proxy), tmp_path)
    assert fetched(tmp_path) == {"large": b"".join(parts)}


def test_a_part_that_arrives_as_something_else_is_still_found(moto, reach, tmp_path):
    parts = [bytes([number]) * (size << 20) for number, size in enumerate((5, 5, 2))]
    put_parts(moto, f"{reach(moto)}/large", parts)
    store = open_at(reach(moto))
    (tmp_path / "damaged").write_bytes(b"".join([*parts[:2], bytes(2 << 20)]))
    assert store.matches_checksum(store.stat("large"), tmp_path / "damaged") is False


def put_parts(server, uri, parts):
    place = dict(zip(("Bucket", "Key"), uri.removeprefix("s3://").split("/", 1), strict=True))
    client = server.client()
    place["UploadId"] = client.create_multipart_upload(**place)["UploadId"]
    sent = [
        {"PartNumber": number, "ETag": client.upload_part(**place, PartNumber=number, Body=part)["ETag"]}
        for number, part in enumerate(parts, 1)
    ]
    client.complete_multipart_upload(**place, MultipartUpload={"Parts": sent})


DOWN = {
    "reset": Fault("reset", "GET .*large", times=2),
    "lost": Fault("lose", "GET .*large", times=2),
    "late": Fault("delay", "GET .*large", times=2, seconds=0.2),
    "failing": Fault("status", "GET .*large", times=2, status=500),
    "busy": Fault("status", "GET .*large", times=2, status=503),
    "cut": Fault("truncate", "GET .*large", times=3),
    "crawling": Fault("crawl", "GET .*large", seconds=0.05),
    "corrupt": Fault("corrupt", "GET .*large"),
    "corrupt and small": Fault("corrupt", "GET .*small"),
    "failing list": Fault("status", "GET .*list-type", times=2, status=500),
}


@pytest.mark.parametrize("name", DOWN)
def test_a_download_survives_what_passes(server, proxy, reach, tmp_path, monkeypatch, name):
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 0.3)
    put(server, reach(proxy), FILES)
    proxy.faults = [Fault(**vars(DOWN[name]))]
    fetch_all(reach(proxy), tmp_path)
    assert fetched(tmp_path) == FILES
    assert proxy.faults[0].times == 0


UP = {
    "reset": Fault("reset", "PUT .*small", times=2),
    "lost": Fault("lose", "PUT .*small", times=2),
    "late": Fault("delay", "PUT .*", times=3, seconds=0.2),
    "failing": Fault("status", "PUT .*", times=4, status=500),
    "busy": Fault("status", "PUT .*", times=4, status=503),
    "corrupt": Fault("corrupt", "PUT .*small"),
    "part reset": Fault("reset", "PUT .*partNumber=2", times=2),
    "part lost": Fault("lose", "PUT .*partNumber=2", times=2),
    "part corrupt": Fault("corrupt", "PUT .*partNumber=3"),
    "begin failing": Fault("status", r"POST .*\?uploads", times=2, status=500),
    "end reset": Fault("reset", "POST .*uploadId=", times=2),
    "end lost": Fault("lose", "POST .*uploadId=", times=2),
    "end failing": Fault("status", "POST .*uploadId=", times=2, status=503),
    "read back cut": Fault("truncate", "GET .*large", times=2),
    "read back corrupt": Fault("corrupt", "GET .*large"),
}


@pytest.mark.parametrize("name", UP)
def test_an_upload_survives_what_passes(server, proxy, reach, tmp_path, name):
    proxy.faults = [Fault(**vars(UP[name]))]
    digests = upload(open_at(reach(proxy)), staged(tmp_path, FILES))
    assert proxy.faults[0].times == 0
    assert objects(server, reach(proxy)) == FILES
    assert digests == {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    assert not open_uploads(server, reach(proxy))


def test_an_object_that_always_arrives_corrupt_is_named_and_never_stands_among_the_good(server, proxy, reach, tmp_path):
    put(server, reach(proxy), {"good": b"good", "bad": b"bad"})
    proxy.faults = [Fault("corrupt", "GET .*/bad", times=ALWAYS)]
    with pytest.raises(StorageError, match=r"s3://bucket/\w+/bad: .*\b3 times"):
        fetch_all(reach(proxy), tmp_path)
    assert "bad" not in fetched(tmp_path)


def test_a_file_that_never_reads_back_as_it_was_sent_is_named(server, proxy, reach, tmp_path):
    proxy.faults = [Fault("corrupt", "PUT .*small", times=ALWAYS)]
    with pytest.raises(StorageError, match=r"/deep/er/small: .*(\b3 times|BadDigest)"):
        upload(open_at(reach(proxy)), staged(tmp_path, FILES))
    assert "deep/er/small" not in objects(server, reach(proxy))


def test_a_large_file_that_cannot_be_sent_leaves_no_half_upload(server, proxy, reach, tmp_path):
    proxy.faults = [Fault("status", "PUT .*partNumber=3", times=ALWAYS, status=403)]
    with pytest.raises(DeniedError, match="/large: "):
        upload(open_at(reach(proxy)), staged(tmp_path, FILES))
    assert "large" not in objects(server, reach(proxy))
    assert not open_uploads(server, reach(proxy))


def test_nothing_is_sent_any_more_once_it_is_not_permitted(store, tmp_path):
    @contextmanager
    def refuse():
        raise StorageError("lost the claim")
        yield

    with pytest.raises(StorageError, match="lost the claim"):
        upload(store, staged(tmp_path / "staged", FILES), refuse)
    assert not list(store.list_objects())


LAST = 4 * SMALL_PIECE


def kill_amid_download(proxy, uri, folder):
    """Have a process fetch all pieces of `large` but the last, then kill it."""
    proxy.faults = [Fault("delay", f"bytes={LAST}-", seconds=30)]
    process = run_python(DOWNLOAD, uri, folder, SMALL_PIECE)
    deadline = time.monotonic() + 20
    while proxy.faults[0].times or [len(file.read_text().split()) for file in folder.rglob("*.pieces")] != [4]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    proxy.seen.clear()


def test_what_another_wrote_is_never_removed_once_writing_is_not_permitted(store, tmp_path):
    permits = iter([True, False])

    @contextmanager
    def once():
        if not next(permits):
            raise StorageError("lost the claim")
        yield
        store.write("a", b"of another")

    with pytest.raises(StorageError, match=r"lost the claim|/a: changed"):
        upload(store, staged(tmp_path / "staged", {"a": b"of mine"}), once)
    assert read_bytes(store, "a") == b"of another"


def test_threads_that_outlive_a_failed_download_write_to_no_other_file(server, proxy, reach, tmp_path):
    put(server, reach(proxy), {"large": LARGE})
    proxy.faults = [
        Fault("status", "GET .*bytes=0-", status=403),
        Fault("delay", "GET .*bytes=", times=9, seconds=0.5),
    ]
    with pytest.raises(DeniedError):
        fetch_all(reach(proxy), tmp_path / "in")
    bystanders = [(tmp_path / str(number)).open("wb") for number in range(50)]
    time.sleep(1)
    for bystander in bystanders:
        bystander.close()
    assert {path.stat().st_size for path in tmp_path.iterdir() if path.is_file()} == {0}


def test_a_download_that_was_killed_is_continued_with_what_is_missing(server, proxy, reach, tmp_path):
    put(server, reach(proxy), {"large": LARGE})
    kill_amid_download(proxy, reach(proxy), tmp_path)
    assert fetched(tmp_path) == {}
    fetch_all(reach(proxy), tmp_path)
    assert fetched(tmp_path) == {"large": LARGE}
    assert spans(proxy) == [f"{LAST}-{LAST}"]


def test_pieces_of_an_object_that_was_replaced_are_not_mixed_with_the_new(server, proxy, reach, tmp_path):
    put(server, reach(proxy), {"large": LARGE})
    kill_amid_download(proxy, reach(proxy), tmp_path)
    put(server, reach(proxy), {"large": LARGE[::-1]})
    fetch_all(reach(proxy), tmp_path)
    assert fetched(tmp_path) == {"large": LARGE[::-1]}
    assert len(spans(proxy)) == 5


def test_what_is_there_and_the_same_is_not_fetched_again(server, proxy, reach, tmp_path):
    put(server, reach(proxy), FILES)
    fetch_all(reach(proxy), tmp_path)
    proxy.seen.clear()
    fetch_all(reach(proxy), tmp_path)
    assert fetched(tmp_path) == FILES
    assert not [seen for seen in proxy.seen if seen.startswith("GET ") and "list-type" not in seen]


@pytest.mark.parametrize("size", [1000, len(LARGE)])
def test_what_changed_there_or_here_is_fetched_again_even_at_the_same_size(server, uri, tmp_path, size):
    put(server, uri, {"a": LARGE[:size]})
    fetch_all(uri, tmp_path)
    put(server, uri, {"a": LARGE[::-1][:size]})
    fetch_all(uri, tmp_path)
    assert fetched(tmp_path) == {"a": LARGE[::-1][:size]}
    (tmp_path / "a").write_bytes(bytes(size))
    fetch_all(uri, tmp_path)
    assert fetched(tmp_path) == {"a": LARGE[::-1][:size]}


def test_an_object_sent_in_parts_is_known_again_by_its_parts(server, proxy, reach, tmp_path):
    client, target = server.client(), {"Bucket": "bucket", "Key": f"{prefix_of(reach(proxy))}large"}
    target["UploadId"] = client.create_multipart_upload(**target)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(LARGE), 400_000), 1):
        part = client.upload_part(**target, PartNumber=number, Body=LARGE[start : start + 400_000])
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
    proxy.faults = [Fault("corrupt", "GET .*large")]
    fetch_all(reach(proxy), tmp_path)
    assert fetched(tmp_path) == {"large": LARGE}
    (tmp_path / "large").write_bytes(bytes(len(LARGE)))
    fetch_all(reach(proxy), tmp_path)
    assert fetched(tmp_path) == {"large": LARGE}
    proxy.seen.clear()
    fetch_all(reach(proxy), tmp_path)
    assert not spans(proxy)


UNSAFE = ["../x", "/abs", "a//b", "./x", "a/../../x", ".partial/lock", "a\x01b", "é" * 150]


@pytest.mark.parametrize("key", UNSAFE)
def test_a_key_that_can_be_no_file_name_is_refused_before_anything_is_fetched(moto, reach, tmp_path, key):
    with proxied(moto) as proxy:
        uri = reach(proxy)
        put(moto, uri, {key: b"x", "good": b"x"})
        with pytest.raises(DataError, match=r"s3://bucket/\w+: .*'.*'.*\b255 bytes"):
            fetch_all(uri, tmp_path / "in")
        assert not list(tmp_path.iterdir())
        assert not spans(proxy, "good")


def test_an_object_and_a_prefix_of_one_name_cannot_be_both_here(moto, reach, tmp_path):
    uri = reach(moto)
    put(moto, uri, {"a": b"x", "a/b": b"x"})
    with pytest.raises(DataError, match=r"s3://bucket/.*: 'a' .*'a/b' "):
        fetch_all(uri, tmp_path / "in")
    assert not list(tmp_path.iterdir())


KEYS = st.lists(st.sampled_from([*string.printable, "..", "/", "//", ".partial", "é" * 130, "\0"]), max_size=6)


@given(key=KEYS.map("".join) | st.text(max_size=20))
def test_whatever_its_key_an_object_lands_below_the_folder_or_is_refused(key):
    class Holding(LocalStore):
        """A store whose objects have any key."""

        def read(self, *_):
            yield b"x"

        def matches_checksum(self, *_):
            return None

    with TemporaryDirectory() as name:
        folder = Path(name) / "outer" / "in"
        try:
            (path,) = download(Holding(Path(name), "MNRL_TRAIN_DATA: s3://bucket"), [Entry(key, 1, "v")], folder)
        except DataError:
            assert not list(Path(name).iterdir())
        else:
            assert fetched(folder) == {path.relative_to(folder).as_posix(): b"x"}
            assert path.relative_to(folder).as_posix() == key
            assert [found.name for found in Path(name).iterdir()] == ["outer"]
            assert [found.name for found in folder.parent.iterdir()] == ["in"]


def test_two_processes_that_fetch_to_one_folder_both_have_all_and_fetch_it_once(server, proxy, reach, tmp_path):
    put(server, reach(proxy), FILES)
    proxy.faults = [Fault("delay", "GET .*(large|small)", times=3, seconds=0.3)]
    both = [run_python(DOWNLOAD, reach(proxy), tmp_path, SMALL_PIECE) for _ in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    assert fetched(tmp_path) == FILES
    assert len(spans(proxy)) == 5


def test_a_disk_that_is_too_small_is_told_as_that(server, uri, tmp_path):
    put(server, uri, {"a": bytes(5000)})
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    said, _ = run_python(limited + DOWNLOAD, uri, tmp_path / "in", SMALL_PIECE).communicate(timeout=240)
    assert (
        f"StorageError: MNRL_TRAIN_DATA: {uri}: cannot write to {tmp_path / 'in'}: File too large; free space" in said
    )
    assert fetched(tmp_path / "in") == {}


@pytest.mark.parametrize("small", [True, False])
def test_a_full_disk_is_a_matter_of_the_environment_and_not_of_the_storage(tmp_path, small_disk, small):
    (small_disk / "filler").write_bytes(bytes(3_300_000))
    staged(tmp_path / "from", {f"s{i}": LARGE[:SMALL_PIECE] for i in range(4)} if small else {"large": LARGE})
    store = LocalStore(tmp_path / "from", "MNRL_TRAIN_DATA: s3://bucket")
    with pytest.raises(EnvironmentFailure, match=r"No space left on device.*MNRL_WORK_DIR"):
        download(store, list(store.list_objects()), small_disk / "in")


def test_a_folder_that_cannot_be_written_is_told_as_that(server, uri, tmp_path):
    put(server, uri, {"a": b"x"})
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match=f"{tmp_path / 'file' / 'in'}.*Not a directory"):
        fetch_all(uri, tmp_path / "file" / "in")


def test_an_empty_object_sent_in_parts_is_fetched(moto, reach, tmp_path):
    client, target = moto.client(), {"Bucket": BUCKET, "Key": f"{prefix_of(reach(moto))}empty"}
    target["UploadId"] = client.create_multipart_upload(**target)["UploadId"]
    part = client.upload_part(**target, PartNumber=1, Body=b"")
    client.complete_multipart_upload(**target, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    fetch_all(reach(moto), tmp_path)
    assert fetched(tmp_path) == {"empty": b""}
