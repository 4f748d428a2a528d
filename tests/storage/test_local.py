"""A folder as a store, also on mounts without links or renames."""

import errno
import os
from pathlib import Path

import pytest

from mnrl_job.errors import DeniedError, SettingsError, StorageError
from mnrl_job.storage import local, open_store
from mnrl_job.storage.base import read_bytes
from mnrl_job.storage.local import LocalStore


@pytest.fixture
def folder(tmp_path):
    return LocalStore(tmp_path / "out", "MNRL_OUTPUT: out")


def fail_with(monkeypatch, number, *names):
    """Make the operations fail as on a mount that does not support them."""

    def fail(*_):
        raise OSError(number, os.strerror(number))

    for name in names:
        if name == "link":
            monkeypatch.setattr(os, "link", fail)
        else:
            monkeypatch.setattr(Path, name, fail)


LIMITED = [
    (number, names)
    for number in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)
    for names in (("link",), ("link", "rename", "replace"))
]


@pytest.mark.parametrize(("number", "names"), LIMITED)
def test_writes_succeed_on_a_mount_without_links_or_renames(folder, monkeypatch, tmp_path, number, names):
    fail_with(monkeypatch, number, *names)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    folder.write("written", b"first, and longer")
    folder.write("written", b"second")
    assert read_bytes(folder, "written") == b"second"
    assert folder.create("deep/created", source).size == 3_000_000
    assert folder.create("deep/created", b"other") is None
    assert read_bytes(folder, "deep/created") == source.read_bytes()
    files = {path.name for path in folder.root.rglob("*") if path.is_file()}
    assert files == {"written", "created"}


def test_a_failed_write_keeps_the_old_content_and_leaves_no_partial_file(folder, monkeypatch):
    folder.write("a", b"before")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(local, "flush", full)
    monkeypatch.setattr("mnrl_job.system.files.flush", full)
    with pytest.raises(StorageError, match=r"^MNRL_OUTPUT: out: .*No space left on device"):
        folder.create("b", b"new")
    with pytest.raises(StorageError, match="No space left on device"):
        folder.write("a", b"after")
    assert {path.name: path.read_bytes() for path in folder.root.rglob("*")} == {"a": b"before"}


def test_a_folder_below_a_file_is_a_settings_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = open_store(str(tmp_path / "file" / "run"), "MNRL_OUTPUT")
    with pytest.raises(SettingsError, match=r"^MNRL_OUTPUT: .*Not a directory"):
        store.write("a", b"x")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permissions_is_denied(tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    store = open_store(str(tmp_path / "locked"), "MNRL_OUTPUT")
    with pytest.raises(DeniedError, match=r"^MNRL_OUTPUT: .*Permission denied"):
        store.write("a", b"x")
    with pytest.raises(DeniedError):
        list(store.list_objects())


def test_denied_access_is_not_taken_for_a_missing_object(folder, monkeypatch):
    folder.write("a", b"x")

    def denied(*_, **__):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    for name in ("stat", "open"):
        monkeypatch.setattr(Path, name, denied)
        with pytest.raises(DeniedError, match="Permission denied"):
            read_bytes(folder, "a")
        monkeypatch.undo()
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DeniedError, match="Permission denied"):
        list(folder.list_objects())


def test_deleting_the_last_file_of_a_folder_removes_the_folder(folder):
    folder.write("a/b/c", b"x")
    folder.write("d/e", b"x")
    folder.delete("a/b/c")
    assert [path.relative_to(folder.root).as_posix() for path in sorted(folder.root.rglob("*"))] == ["d", "d/e"]


@pytest.mark.parametrize("uri", ["{}/a%20b", "file://{}/a%20b", "file://localhost{}/a%20b"])
def test_a_file_uri_is_decoded_and_a_path_is_not(tmp_path, uri):
    open_store(uri.format(tmp_path), "MNRL_OUTPUT").write("x", b"1")
    assert (tmp_path / ("a b" if "://" in uri else "a%20b") / "x").read_bytes() == b"1"


@pytest.mark.parametrize("uri", ["gs://bucket/run", "hdfs://host/run", "file://host/run"])
def test_other_schemes_are_rejected(uri):
    with pytest.raises(SettingsError, match=f"^MNRL_OUTPUT: {uri}.*file:// or s3://"):
        open_store(uri, "MNRL_OUTPUT")
