"""Downloads are unchanged through every fault, resumed after interruptions and verified."""

import time

import pytest

from mnrl_job.errors import DeniedError, StorageError
from mnrl_job.storage import s3
from tests.program import run_python
from tests.servers.proxy import Fault
from tests.servers.s3 import BUCKET, SMALL_PART, open_at, prefix_of, put
from tests.storage.transfers import ALWAYS, DOWNLOAD, FILES, LARGE, download_all, downloaded, requested_ranges

pytestmark = pytest.mark.usefixtures("small_parts", "no_backoff")


def put_parts(server, uri, parts):
    place = dict(zip(("Bucket", "Key"), uri.removeprefix("s3://").split("/", 1), strict=True))
    client = server.client()
    place["UploadId"] = client.create_multipart_upload(**place)["UploadId"]
    sent = [
        {"PartNumber": number, "ETag": client.upload_part(**place, PartNumber=number, Body=part)["ETag"]}
        for number, part in enumerate(parts, 1)
    ]
    client.complete_multipart_upload(**place, MultipartUpload={"Parts": sent})


def test_objects_are_downloaded_unchanged_and_a_large_one_in_parts(server, proxy, reach, tmp_path):
    put(server, reach(proxy), FILES)
    files = download_all(reach(proxy), tmp_path / "in")
    assert downloaded(tmp_path / "in") == FILES
    assert {path.relative_to(tmp_path / "in").as_posix() for path in files} == set(FILES)
    starts = range(0, len(LARGE), SMALL_PART)
    expected = [f"{start}-{min(start + SMALL_PART, len(LARGE)) - 1}" for start in starts]
    assert requested_ranges(proxy) == sorted(expected)
    assert not list((tmp_path / "in" / ".partial").glob("[0-9a-f]*"))


@pytest.mark.parametrize("sizes", [(5, 6, 1), (5, 5, 2)])
def test_a_multipart_object_is_downloaded_whatever_its_part_sizes(server, proxy, reach, tmp_path, sizes):
    parts = [bytes([number]) * (size << 20) for number, size in enumerate(sizes)]
    put_parts(server, f"{reach(proxy)}/large", parts)
    download_all(reach(proxy), tmp_path)
    assert downloaded(tmp_path) == {"large": b"".join(parts)}


def test_a_corrupted_part_of_a_multipart_object_fails_the_checksum(moto, reach, tmp_path):
    parts = [bytes([number]) * (size << 20) for number, size in enumerate((5, 5, 2))]
    put_parts(moto, f"{reach(moto)}/large", parts)
    store = open_at(reach(moto))
    (tmp_path / "damaged").write_bytes(b"".join([*parts[:2], bytes(2 << 20)]))
    assert store.matches_checksum(store.stat("large"), tmp_path / "damaged") is False


def test_an_empty_multipart_object_is_downloaded(moto, reach, tmp_path):
    client, target = moto.client(), {"Bucket": BUCKET, "Key": f"{prefix_of(reach(moto))}empty"}
    target["UploadId"] = client.create_multipart_upload(**target)["UploadId"]
    part = client.upload_part(**target, PartNumber=1, Body=b"")
    client.complete_multipart_upload(**target, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    download_all(reach(moto), tmp_path)
    assert downloaded(tmp_path) == {"empty": b""}


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
def test_a_download_survives_transient_faults(server, proxy, reach, tmp_path, monkeypatch, name):
    monkeypatch.setattr(s3, "STALL_SECONDS", 0.3)
    put(server, reach(proxy), FILES)
    proxy.faults = [Fault(**vars(DOWN[name]))]
    download_all(reach(proxy), tmp_path)
    assert downloaded(tmp_path) == FILES
    assert proxy.faults[0].times == 0


def test_an_object_that_is_always_corrupted_in_transit_is_an_error_and_not_kept(server, proxy, reach, tmp_path):
    put(server, reach(proxy), {"good": b"good", "bad": b"bad"})
    proxy.faults = [Fault("corrupt", "GET .*/bad", times=ALWAYS)]
    with pytest.raises(StorageError, match=r"s3://bucket/\w+/bad: checksum mismatch after 3 downloads"):
        download_all(reach(proxy), tmp_path)
    assert "bad" not in downloaded(tmp_path)


LAST = 4 * SMALL_PART


def kill_amid_download(proxy, uri, folder):
    """Have a process fetch all pieces of `large` but the last, then kill it."""
    proxy.faults = [Fault("delay", f"bytes={LAST}-", seconds=30)]
    process = run_python(DOWNLOAD, uri, folder, SMALL_PART)
    deadline = time.monotonic() + 20
    while proxy.faults[0].times or [len(file.read_text().split()) for file in folder.rglob("*.parts")] != [4]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    proxy.seen.clear()


def test_threads_that_outlive_a_failed_download_write_to_no_other_file(server, proxy, reach, tmp_path):
    put(server, reach(proxy), {"large": LARGE})
    proxy.faults = [
        Fault("status", "GET .*bytes=0-", status=403),
        Fault("delay", "GET .*bytes=", times=9, seconds=0.5),
    ]
    with pytest.raises(DeniedError):
        download_all(reach(proxy), tmp_path / "in")
    bystanders = [(tmp_path / str(number)).open("wb") for number in range(50)]
    time.sleep(1)
    for bystander in bystanders:
        bystander.close()
    assert {path.stat().st_size for path in tmp_path.iterdir() if path.is_file()} == {0}


def test_a_killed_download_resumes_with_the_missing_parts(server, proxy, reach, tmp_path):
    put(server, reach(proxy), {"large": LARGE})
    kill_amid_download(proxy, reach(proxy), tmp_path)
    assert downloaded(tmp_path) == {}
    download_all(reach(proxy), tmp_path)
    assert downloaded(tmp_path) == {"large": LARGE}
    assert requested_ranges(proxy) == [f"{LAST}-{LAST}"]


def test_parts_of_a_replaced_object_are_not_mixed_with_the_new_one(server, proxy, reach, tmp_path):
    put(server, reach(proxy), {"large": LARGE})
    kill_amid_download(proxy, reach(proxy), tmp_path)
    put(server, reach(proxy), {"large": LARGE[::-1]})
    download_all(reach(proxy), tmp_path)
    assert downloaded(tmp_path) == {"large": LARGE[::-1]}
    assert len(requested_ranges(proxy)) == 5


def test_unchanged_files_are_not_downloaded_again(server, proxy, reach, tmp_path):
    put(server, reach(proxy), FILES)
    download_all(reach(proxy), tmp_path)
    proxy.seen.clear()
    download_all(reach(proxy), tmp_path)
    assert downloaded(tmp_path) == FILES
    assert not [seen for seen in proxy.seen if seen.startswith("GET ") and "list-type" not in seen]


@pytest.mark.parametrize("size", [1000, len(LARGE)])
def test_a_file_or_object_changed_at_the_same_size_is_downloaded_again(server, uri, tmp_path, size):
    put(server, uri, {"a": LARGE[:size]})
    download_all(uri, tmp_path)
    put(server, uri, {"a": LARGE[::-1][:size]})
    download_all(uri, tmp_path)
    assert downloaded(tmp_path) == {"a": LARGE[::-1][:size]}
    (tmp_path / "a").write_bytes(bytes(size))
    download_all(uri, tmp_path)
    assert downloaded(tmp_path) == {"a": LARGE[::-1][:size]}


def test_a_multipart_object_is_verified_by_the_checksums_of_its_parts(server, proxy, reach, tmp_path):
    client, target = server.client(), {"Bucket": "bucket", "Key": f"{prefix_of(reach(proxy))}large"}
    target["UploadId"] = client.create_multipart_upload(**target)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(LARGE), 400_000), 1):
        part = client.upload_part(**target, PartNumber=number, Body=LARGE[start : start + 400_000])
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
    proxy.faults = [Fault("corrupt", "GET .*large")]
    download_all(reach(proxy), tmp_path)
    assert downloaded(tmp_path) == {"large": LARGE}
    (tmp_path / "large").write_bytes(bytes(len(LARGE)))
    download_all(reach(proxy), tmp_path)
    assert downloaded(tmp_path) == {"large": LARGE}
    proxy.seen.clear()
    download_all(reach(proxy), tmp_path)
    assert not requested_ranges(proxy)


def test_two_processes_that_download_to_the_same_folder_download_once(server, proxy, reach, tmp_path):
    put(server, reach(proxy), FILES)
    proxy.faults = [Fault("delay", "GET .*(large|small)", times=3, seconds=0.3)]
    both = [run_python(DOWNLOAD, reach(proxy), tmp_path, SMALL_PART) for _ in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    assert downloaded(tmp_path) == FILES
    assert len(requested_ranges(proxy)) == 5
