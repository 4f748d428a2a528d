"""Git LFS pointers are distinguished from regular files."""

import pytest

from mnrl_job.system.git_lfs import is_lfs_pointer


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_pointer_is_recognized_by_its_first_line(tmp_path, newline):
    path = tmp_path / "model.safetensors"
    lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{'ab' * 32}", "size 12", "")
    path.write_bytes(newline.join(lines).encode())
    assert is_lfs_pointer(path)


@pytest.mark.parametrize(
    "content", [b"", b"version", b'{"version": "https://git-lfs.github.com/spec/v1"}', b"\x00\xff"]
)
def test_a_regular_file_is_no_pointer(tmp_path, content):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    assert not is_lfs_pointer(path)
