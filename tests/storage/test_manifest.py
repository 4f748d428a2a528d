"""A sealed folder counts only as long as every file in it is the one that was sealed."""

import os

import pytest

from mnrl_job.storage.manifest import MANIFEST, read_valid_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "weights").write_bytes(os.urandom(5000))
    (tmp_path / "deep" / "empty").write_bytes(b"")
    write_manifest(tmp_path, {"step": 3})
    return tmp_path


def test_what_was_sealed_is_read_back(folder):
    found = read_valid_manifest(folder)
    assert found["step"] == 3
    assert set(found["files"]) == {"weights", "deep/empty"}


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "grown"])
def test_a_folder_with_any_other_file_does_not_count(folder, damage):
    path = folder / ("deep/empty" if damage == "grown" else "weights")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:] if content else b""
        path.write_bytes({"cut": content[:-1], "changed": flipped, "grown": content + b"1"}[damage])
    assert read_valid_manifest(folder) is None


def test_a_seal_with_any_other_byte_does_not_count(folder):
    """It would be taken for that of other settings."""
    whole = (folder / MANIFEST).read_bytes()
    for at in range(len(whole)):
        (folder / MANIFEST).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert read_valid_manifest(folder) is None, whole[max(0, at - 20) : at + 20]


@pytest.mark.parametrize("seal_text", ["", "{", "[]", "{}", '{"files": [1]}'])
def test_a_seal_that_cannot_be_read_is_none(folder, seal_text):
    (folder / MANIFEST).write_text(seal_text, encoding="utf-8")
    assert read_valid_manifest(folder) is None


def test_a_folder_never_sealed_does_not_count(tmp_path):
    assert read_valid_manifest(tmp_path) is None
    assert read_valid_manifest(tmp_path / "nowhere") is None
