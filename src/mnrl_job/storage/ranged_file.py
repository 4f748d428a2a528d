"""An object as a file that is read in ranges."""

import io
from typing import TYPE_CHECKING

from mnrl_job.storage.base import Entry, Store

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class RangedFile(io.RawIOBase):
    """Reads only the ranges it is asked for, each with one request; `fetched` counts their bytes."""

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

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        data = b"".join(self.store.read(self.entry, self.position, min(self.position + len(view), self.entry.size)))
        view[: len(data)] = data
        self.position += len(data)
        self.fetched += len(data)
        return len(data)
