"""Git LFS pointers: the few lines that stand in a clone for a file that was not downloaded."""

from pathlib import Path

POINTER_START = b"version https://git-lfs.github.com/spec/"


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is a pointer in place of its content."""
    with path.open("rb") as handle:
        return handle.read(len(POINTER_START)) == POINTER_START
