"""Files: whole or not at all, and a failing disk told by what can be done about it."""

import errno
import os
from pathlib import Path

import pytest

from mnrl_job.errors import DeniedError, SettingsError, StorageError
from mnrl_job.runtime.files import copy_whole, storage_error, writable_folder, write_whole


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.EACCES, DeniedError, 77),
        (errno.EROFS, DeniedError, 77),
        (errno.ENOSPC, StorageError, 69),
        (errno.EIO, StorageError, 69),
        (errno.ENOTDIR, SettingsError, 64),
    ],
)
def test_a_failing_disk_is_told_apart_by_what_helps(number, kind, code):
    error = storage_error(OSError(number, os.strerror(number)), "MNRL_OUTPUT: cannot write to out")
    assert type(error) is kind
    assert error.code == code
    assert str(error).startswith(f"MNRL_OUTPUT: cannot write to out: {os.strerror(number)}; ")


def test_what_is_written_is_whole_and_nothing_else_is_left(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    copy_whole(source, tmp_path / "deep" / "copy")
    write_whole(tmp_path / "deep" / "text", "ä")
    assert (tmp_path / "deep" / "copy").read_bytes() == source.read_bytes()
    assert (tmp_path / "deep" / "text").read_text(encoding="utf-8") == "ä"
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"copy", "text"}


def test_a_copy_that_cannot_be_finished_leaves_nothing_and_keeps_what_was_there(tmp_path):
    target = tmp_path / "target"
    target.write_text("before")
    with pytest.raises(OSError, match="Input/output error"):
        copy_whole(Path("/proc/self/mem"), target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert target.read_text() == "before"


def test_a_probed_folder_is_there_and_empty(tmp_path):
    assert not list(writable_folder(tmp_path / "a" / "b", "MNRL_OUTPUT").iterdir())
