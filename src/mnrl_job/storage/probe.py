"""Can the output be written, read, deleted? Asked before hours of work depend on it."""

import time
import uuid

from mnrl_job.errors import StorageError
from mnrl_job.storage.base import Store, read_bytes

PREFIX = ".probe-"
TRIES = 3
SAMPLE_BYTES = 8 << 20


def probe(store: Store) -> bool:
    """Write a small object, read it back, create it again conditionally, delete it.

    Returns:
        Whether the store refuses to create what is there already.

    Raises:
        JobError: one of these is denied, or does not do what it should.
    """
    for _ in range(TRIES):
        key, data = _key(), uuid.uuid4().hex.encode()
        store.write(key, data)
        try:
            found = read_bytes(store, key)
            enforces = store.create(key, b"somebody else's") is None
        finally:
            store.delete(key)
        if found == data and store.stat(key) is None:
            return enforces
        # Another attempt at the same run may just have cleared the place.
    raise StorageError(
        f"{store.label}: does not read back as it was written, or what is deleted stays; "
        "mend the storage, then start again"
    )


def write_speed(store: Store) -> float:
    """Bytes per second that a middling file takes to the store."""
    key, began = _key(), time.perf_counter()
    store.create(key, bytes(SAMPLE_BYTES))
    seconds = time.perf_counter() - began
    store.delete(key)
    return SAMPLE_BYTES / seconds


def _key() -> str:
    return f"{PREFIX}{uuid.uuid4().hex[:12]}"
