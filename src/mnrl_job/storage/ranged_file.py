"""An object as a file that is read in ranges."""

import io
from typing import Any

from mnrl_job.storage.base import Entry, Store


class RangedFile(io.RawIOBase):
    """Fetches only what is read; `fetched` counts the bytes."""

    def __init__(self, store: Store, entry: Entry) -> None:
        self.store, self.entry = store, entry
        self.position = self.fetched = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.entry.size}[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        stop = min(self.position + len(buffer), self.entry.size)
        data = b"".join(self.store.read(self.entry, self.position, stop))
        buffer[: len(data)] = data
        self.position += len(data)
        self.fetched += len(data)
        return len(data)
