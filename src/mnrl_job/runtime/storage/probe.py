"""Can the output be written, read, deleted? Asked before hours of work depend on it."""

import uuid

from mnrl_job.errors import StorageError
from mnrl_job.runtime.storage.base import Store, content


def probe(store: Store) -> bool:
    """Write a small object, read it back, create it again conditionally, delete it.

    Returns:
        Whether the store refuses to create what is there already.

    Raises:
        JobError: one of these is denied, or does not do what it should.
    """
    key, data = f".probe-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex.encode()
    store.write(key, data)
    try:
        if content(store, key) != data:
            raise StorageError(
                f"{store.label}: does not read back as it was written; mend the storage, then start again"
            )
        enforces = store.create(key, b"somebody else's") is None
    finally:
        store.delete(key)
    if store.entry(key):
        raise StorageError(f"{store.label}: what is deleted stays; mend the storage, then start again")
    return enforces
