"""Git LFS pointers: placeholders in a clone for files that were not downloaded."""

from pathlib import Path

POINTER_START = b"version https://git-lfs.github.com/spec/"


def is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(len(POINTER_START)) == POINTER_START
