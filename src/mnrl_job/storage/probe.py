"""Check that the output can be written, read and deleted, before hours of work depend on it."""

import time
import uuid

from mnrl_job.errors import StorageError
from mnrl_job.storage.base import Store, read_bytes

PREFIX = ".probe-"
ATTEMPTS = 3
SAMPLE_BYTES = 8 << 20


def probe(store: Store) -> bool:
    """Write a small object, read it back, create it again conditionally, delete it.

    Returns:
        Whether the store enforces conditional writes.

    Raises:
        JobError: an operation is denied or has no effect.
    """
    for _ in range(ATTEMPTS):
        key, data = _key(), uuid.uuid4().hex.encode()
        store.write(key, data)
        try:
            content = read_bytes(store, key)
            conditional = store.create(key, b"of another writer") is None
        finally:
            store.delete(key)
        if content == data and store.stat(key) is None:
            return conditional
        # Another attempt at the same run may have cleared the folder meanwhile.
    raise StorageError(
        f"{store.label}: an object read back differs from what was written, or remains after its deletion; "
        "fix the storage, then start again"
    )


def write_speed(store: Store) -> float:
    """Upload throughput of a medium-sized file, in bytes per second."""
    key, started = _key(), time.perf_counter()
    store.create(key, bytes(SAMPLE_BYTES))
    seconds = time.perf_counter() - started
    store.delete(key)
    return SAMPLE_BYTES / seconds


def _key() -> str:
    return f"{PREFIX}{uuid.uuid4().hex[:12]}"
