"""The interface of a store."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mnrl_job.storage.part_tracker import Wait

CHUNK = 1 << 20
# Larger objects are transferred in parts, several in parallel.
PART_SIZE = 32 << 20
# Folder, or suffix, of incomplete files.
PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Entry:
    """An object or file. `version` changes whenever the content does (an ETag; inode, mtime and size of a file)."""

    key: str
    size: int
    version: str


class Store(Protocol):
    """Objects below a root, addressed by relative keys with `/`. `label` names the root in errors.

    All methods raise DeniedError, StorageError (after retries if the cause is transient) or SettingsError. A missing
    object alone is not an error, and denied access is never reported as a missing object.
    """

    @property
    def label(self) -> str: ...

    def join(self, name: str) -> "Store":
        """The store rooted one level down."""

    def list_objects(self, prefix: str = "") -> Iterator[Entry]:
        """All objects whose key starts with `prefix`, at any depth."""

    def list_folders(self) -> Iterator[str]:
        """The names of the folders, or common prefixes, one level down."""

    def stat(self, key: str) -> Entry | None:
        """The object, or None if it does not exist."""

    def read(self, entry: Entry, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes [start, stop) in chunks; an interrupted transfer is resumed, not restarted.

        Raises:
            StorageError: among others, the object has changed since `entry` was read.
        """

    def write(self, key: str, data: bytes) -> None:
        """Write a small object atomically, replacing any existing one."""

    def create(self, key: str, source: Path | bytes) -> Entry | None:
        """Write an object atomically. None if the key exists; without conditional writes it is overwritten."""

    def matches_checksum(self, entry: Entry, path: Path, wait: Wait = lambda _: None) -> bool | None:
        """Whether a file matches the object's checksum in the store; None if the store has none.

        The file may still be downloading: `wait(stop)` is called before the bytes up to `stop` are read.
        """

    def delete(self, key: str) -> None:
        """Delete an object if it exists."""

    def remove_incomplete(self) -> None:
        """Remove the incomplete writes of killed processes."""


def read_bytes(store: Store, key: str) -> bytes | None:
    """The content of a small object, or None if it does not exist."""
    entry = store.stat(key)
    return b"".join(store.read(entry)) if entry else None
