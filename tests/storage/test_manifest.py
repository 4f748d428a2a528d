"""A manifest is valid only as long as it and every file in it are unchanged."""

import os

import pytest

from mnrl_job.storage.manifest import MANIFEST, find_damage, parse_manifest, read_valid_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "weights").write_bytes(os.urandom(5000))
    (tmp_path / "deep" / "empty").write_bytes(b"")
    write_manifest(tmp_path, {"step": 3})
    return tmp_path


def test_a_valid_manifest_is_read_back(folder):
    manifest = read_valid_manifest(folder)
    assert manifest["step"] == 3
    assert set(manifest["files"]) == {"weights", "deep/empty"}


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "grown"])
def test_a_manifest_with_a_damaged_file_is_invalid_and_the_file_is_named(folder, damage):
    path = folder / ("deep/empty" if damage == "grown" else "weights")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:] if content else b""
        path.write_bytes({"cut": content[:-1], "changed": flipped, "grown": content + b"1"}[damage])
    assert read_valid_manifest(folder) is None
    (message,) = find_damage(folder, parse_manifest((folder / MANIFEST).read_bytes())["files"])
    assert message.startswith(f"{path.relative_to(folder).as_posix()}: ")


def test_a_manifest_with_any_other_byte_is_invalid(folder):
    """Else it could be taken for one of other settings."""
    content = (folder / MANIFEST).read_bytes()
    for at in range(len(content)):
        (folder / MANIFEST).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert read_valid_manifest(folder) is None, content[max(0, at - 20) : at + 20]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": [1]}', '{"files": {"weights": {}}}'])
def test_a_manifest_that_cannot_be_parsed_is_none(folder, content):
    (folder / MANIFEST).write_text(content, encoding="utf-8")
    assert parse_manifest(content.encode()) is None
    assert read_valid_manifest(folder) is None


def test_a_folder_without_a_manifest_has_none(tmp_path):
    assert read_valid_manifest(tmp_path) is None
    assert read_valid_manifest(tmp_path / "nowhere") is None
