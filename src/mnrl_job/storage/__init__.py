"""Folders and S3 prefixes behind one interface. Only `s3.py` and its like import boto3."""

from mnrl_job.storage.base import Entry, Store
from mnrl_job.storage.local import LocalStore
from mnrl_job.storage.uri import is_hub_id, is_remote, local_path, split_revision

__all__ = ["Entry", "LocalStore", "Store", "is_hub_id", "is_remote", "local_path", "open_store", "split_revision"]


def open_store(uri: str, variable: str, addressing_style: str = "auto", attempts: int | None = None) -> Store:
    """The store behind a path, `file://` or `s3://` URI. Nothing is read or written yet.

    Open it when it is needed and drop it afterwards: credentials may have rotated since the last time.

    Args:
        uri: where.
        variable: the setting that named it; errors say so.
        addressing_style: of S3: `auto`, `path` or `virtual`.
        attempts: how often a request is tried; None for as often as is usual.

    Raises:
        SettingsError: the scheme is not one of these, or the URI is malformed.
    """
    if not is_remote(uri):
        return LocalStore(local_path(uri, variable), f"{variable}: {uri}")
    from mnrl_job.storage.s3 import connect  # 0.2 s that a run on local folders need not wait for

    return connect(uri, variable, addressing_style, attempts)
