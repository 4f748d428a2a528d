"""Where downloads are written: keys as file names, full disks and unwritable folders."""

import string
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.errors import DataError, EnvironmentFailure, SettingsError
from mnrl_job.storage import Entry
from mnrl_job.storage.local import LocalStore
from mnrl_job.storage.transfer import download
from tests.program import run_python
from tests.servers.proxy import proxied
from tests.servers.s3 import SMALL_PART, put
from tests.storage.transfers import DOWNLOAD, LARGE, download_all, downloaded, requested_ranges, write_files

pytestmark = pytest.mark.usefixtures("small_parts", "no_backoff")


UNSAFE = ["../x", "/abs", "a//b", "./x", "a/../../x", ".partial/lock", "a\x01b", "é" * 150]


@pytest.mark.parametrize("key", UNSAFE)
def test_a_key_that_is_no_valid_file_name_is_rejected_before_any_download(moto, reach, tmp_path, key):
    with proxied(moto) as proxy:
        uri = reach(proxy)
        put(moto, uri, {key: b"x", "good": b"x"})
        with pytest.raises(DataError, match=r"s3://bucket/\w+: .*'.*'.*\b255 bytes"):
            download_all(uri, tmp_path / "in")
        assert not list(tmp_path.iterdir())
        assert not requested_ranges(proxy, "good")


def test_an_object_and_a_prefix_of_the_same_name_are_rejected(moto, reach, tmp_path):
    uri = reach(moto)
    put(moto, uri, {"a": b"x", "a/b": b"x"})
    with pytest.raises(DataError, match=r"s3://bucket/.*: 'a' .*'a/b' "):
        download_all(uri, tmp_path / "in")
    assert not list(tmp_path.iterdir())


KEYS = st.lists(st.sampled_from([*string.printable, "..", "/", "//", ".partial", "é" * 130, "\0"]), max_size=6)


@given(key=KEYS.map("".join) | st.text(max_size=20))
def test_an_object_with_any_key_is_written_below_the_folder_or_rejected(key):
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
            assert downloaded(folder) == {path.relative_to(folder).as_posix(): b"x"}
            assert path.relative_to(folder).as_posix() == key
            assert [found.name for found in Path(name).iterdir()] == ["outer"]
            assert [found.name for found in folder.parent.iterdir()] == ["in"]


def test_a_file_size_limit_is_reported_as_such(server, uri, tmp_path):
    put(server, uri, {"a": bytes(5000)})
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    said, _ = run_python(limited + DOWNLOAD, uri, tmp_path / "in", SMALL_PART).communicate(timeout=240)
    assert (
        f"StorageError: MNRL_TRAIN_DATA: {uri}: cannot write to {tmp_path / 'in'}: File too large; free space" in said
    )
    assert downloaded(tmp_path / "in") == {}


@pytest.mark.parametrize("small", [True, False])
def test_a_full_local_disk_is_an_environment_failure(tmp_path, small_disk, small):
    (small_disk / "filler").write_bytes(bytes(3_300_000))
    write_files(tmp_path / "from", {f"s{i}": LARGE[:SMALL_PART] for i in range(4)} if small else {"large": LARGE})
    store = LocalStore(tmp_path / "from", "MNRL_TRAIN_DATA: s3://bucket")
    with pytest.raises(EnvironmentFailure, match=r"No space left on device.*MNRL_WORK_DIR"):
        download(store, list(store.list_objects()), small_disk / "in")


def test_a_folder_that_cannot_be_written_is_reported_as_such(server, uri, tmp_path):
    put(server, uri, {"a": b"x"})
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match=f"{tmp_path / 'file' / 'in'}.*Not a directory"):
        download_all(uri, tmp_path / "file" / "in")
