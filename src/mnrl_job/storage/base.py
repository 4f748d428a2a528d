"""What every store can do."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mnrl_job.storage.part_tracker import Wait

CHUNK = 1 << 20
# Above this an object travels in pieces, several at once.
PART_SIZE = 32 << 20
# Where files stand until they are whole.
PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Entry:
    """An object or file. `version` changes whenever the content does (an ETag; inode, size and time of a file)."""

    key: str
    size: int
    version: str


class Store(Protocol):
    """Objects below one place, by relative key with `/`. `label` names the place in errors.

    All methods raise DeniedError, StorageError (after retries where the cause may pass) or SettingsError; what is not
    there is never an error of its own, and what is denied is never taken for not there.
    """

    @property
    def label(self) -> str: ...

    def join(self, name: str) -> "Store":
        """The store one level down."""

    def list_objects(self, prefix: str = "") -> Iterator[Entry]:
        """Everything whose key starts with `prefix`, at any depth."""

    def stat(self, key: str) -> Entry | None:
        """One object, or None where there is none."""

    def read(self, entry: Entry, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to before `stop` in chunks; what was cut on the way is resumed, not repeated.

        Raises:
            StorageError: also where the object changed since `entry` was made.
        """

    def write(self, key: str, data: bytes) -> None:
        """Write a small object whole, in place of what was there."""

    def create(self, key: str, source: Path | bytes) -> Entry | None:
        """Write an object whole, only where there is none yet.

        Returns:
            None where there is one already. A store that does not enforce this writes in any case.
        """

    def matches_checksum(self, entry: Entry, path: Path, wait: Wait = lambda _: None) -> bool | None:
        """Whether a file has an object's content by the checksum the store keeps; None where it keeps none.

        The file may still be arriving: `wait` is called with a position before the bytes before it are read.
        """

    def delete(self, key: str) -> None:
        """Delete an object; no error where there is none."""

    def remove_incomplete(self) -> None:
        """Remove what writers that were killed have left half-written."""


def read_bytes(store: Store, key: str) -> bytes | None:
    """A small object whole, or None where there is none."""
    entry = store.stat(key)
    return b"".join(store.read(entry)) if entry else None
