"""Uploads are verified through every fault, and stop once the guard refuses."""

import hashlib
import re
from contextlib import contextmanager

import pytest

from mnrl_job.errors import DeniedError, StorageError
from mnrl_job.storage import LocalStore
from mnrl_job.storage.base import read_bytes
from mnrl_job.storage.transfer import upload
from mnrl_job.system import logs
from tests.servers.proxy import Fault
from tests.servers.s3 import objects, open_at, open_uploads
from tests.storage.transfers import (
    ALWAYS,
    FILES,
    write_files,
)

pytestmark = pytest.mark.usefixtures("small_parts", "no_backoff")


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
def test_an_upload_survives_transient_faults(server, proxy, reach, tmp_path, name):
    proxy.faults = [Fault(**vars(UP[name]))]
    digests = upload(open_at(reach(proxy)), write_files(tmp_path, FILES))
    assert proxy.faults[0].times == 0
    assert objects(server, reach(proxy)) == FILES
    assert digests == {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    assert not open_uploads(server, reach(proxy))


def test_a_file_whose_upload_never_verifies_is_an_error_and_not_kept(server, proxy, reach, tmp_path):
    proxy.faults = [Fault("corrupt", "PUT .*small", times=ALWAYS)]
    with pytest.raises(StorageError, match=r"/deep/er/small: .*(\b3 times|BadDigest)"):
        upload(open_at(reach(proxy)), write_files(tmp_path, FILES))
    assert "deep/er/small" not in objects(server, reach(proxy))


def test_a_failed_multipart_upload_is_aborted(server, proxy, reach, tmp_path):
    proxy.faults = [Fault("status", "PUT .*partNumber=3", times=ALWAYS, status=403)]
    with pytest.raises(DeniedError, match="/large: "):
        upload(open_at(reach(proxy)), write_files(tmp_path, FILES))
    assert "large" not in objects(server, reach(proxy))
    assert not open_uploads(server, reach(proxy))


def test_nothing_is_uploaded_once_the_guard_refuses(store, tmp_path):
    @contextmanager
    def refuse():
        raise StorageError("lost the claim")
        yield

    with pytest.raises(StorageError, match="lost the claim"):
        upload(store, write_files(tmp_path / "staged", FILES), refuse)
    assert not list(store.list_objects())


def test_an_object_of_another_writer_is_not_deleted_once_the_guard_refuses(store, tmp_path):
    permits = iter([True, False])

    @contextmanager
    def once():
        if not next(permits):
            raise StorageError("lost the claim")
        yield
        store.write("a", b"of another")

    with pytest.raises(StorageError, match=r"lost the claim|/a: changed"):
        upload(store, write_files(tmp_path / "staged", {"a": b"of mine"}), once)
    assert read_bytes(store, "a") == b"of another"


def test_a_transfer_that_takes_time_is_logged_with_its_size_and_one_that_takes_none_is_not(
    store, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", "mnrl_job")
    (tmp_path / "file").write_bytes(b"x" * 34_000)
    monkeypatch.setattr(logs, "MIN_SECONDS", 60.0)
    upload(store, {"quick": tmp_path / "file"})
    assert caplog.messages == []
    monkeypatch.setattr(logs, "MIN_SECONDS", 0.0)
    upload(store, {"slow": tmp_path / "file"})
    verb = "saving" if isinstance(store, LocalStore) else "uploading"
    (message,) = caplog.messages
    assert re.fullmatch(rf"{verb} 1 file \(34 kB\) took \d\.\d s", message)
