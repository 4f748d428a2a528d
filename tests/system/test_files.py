"""Atomic writes, locks, scratch folders, and the meaning of OS errors."""

import errno
import hashlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mnrl_job.errors import DeniedError, SettingsError, StorageError
from mnrl_job.system import files
from mnrl_job.system.files import atomic_write, file_lock, scratch_folder, sha256_of, storage_error, writable_folder


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
def test_os_errors_map_to_errors_by_remedy(number, kind, code):
    error = storage_error(OSError(number, os.strerror(number)), "MNRL_OUTPUT: cannot write to out")
    assert type(error) is kind
    assert error.code == code
    assert re.match(f"MNRL_OUTPUT: .*out: {os.strerror(number)}; ", str(error))


def test_an_atomic_write_leaves_nothing_but_the_file(tmp_path):
    data = os.urandom(3_000_000)
    for content in (b"before", data):
        atomic_write(tmp_path / "file", content)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        assert (tmp_path / "file").read_bytes() == content


def test_a_reader_sees_the_old_or_the_new_file_and_no_mixture(tmp_path):
    path, contents = tmp_path / "file", (b"a" * 500_000, b"b" * 400_000)
    atomic_write(path, contents[0])
    writer = threading.Thread(target=lambda: [atomic_write(path, contents[turn % 2]) for turn in range(50)])
    writer.start()
    while writer.is_alive():
        assert path.read_bytes() in contents


def test_a_failed_write_keeps_the_old_file_and_leaves_no_partial_one(tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.write_text("before")

    def broken(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "flush", broken)
    with pytest.raises(OSError, match="Input/output error"):
        atomic_write(target, b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert target.read_text() == "before"


def test_the_hash_is_that_of_the_concatenated_files(tmp_path):
    parts = [os.urandom(1_500_000), b"", b"end"]
    paths = [tmp_path / str(number) for number in range(3)]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part)
    assert sha256_of(paths) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_a_file_lock_is_exclusive(tmp_path):
    inside, most = [], []

    def enter():
        with file_lock(tmp_path / "lock"):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.02)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_a_writable_folder_is_created_and_empty(tmp_path):
    assert not list(writable_folder(tmp_path / "a" / "b", "MNRL_OUTPUT").iterdir())


def test_a_folder_below_a_file_is_a_settings_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match=r"^MNRL_WORK_DIR: .*file/work: Not a directory"):
        writable_folder(tmp_path / "file" / "work", "MNRL_WORK_DIR")


HOLD = """
import sys
from pathlib import Path
from mnrl_job.system.files import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "data").write_bytes(bytes(1000))
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_scratch_is_removed_at_the_end_and_that_of_a_killed_process_by_the_next(tmp_path):
    living, killed = (
        subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    )
    held, left = (Path(one.stdout.readline().decode().strip()) for one in (living, killed))
    (tmp_path / "of-somebody-else").mkdir()
    killed.kill()
    killed.wait()
    assert left.exists()
    with scratch_folder(tmp_path) as own:
        assert {path.name for path in tmp_path.iterdir()} == {"of-somebody-else", held.name, own.name}
        assert (held / "data").exists()
    living.communicate()
    assert {path.name for path in tmp_path.iterdir()} == {"of-somebody-else"}
