"""Local folders and S3 prefixes behind one interface. Only the modules `s3*` import boto3."""

from mnrl_job.storage.base import Entry, Store
from mnrl_job.storage.local import LocalStore
from mnrl_job.storage.uri import is_hub_id, is_remote, local_path, split_revision

__all__ = ["Entry", "LocalStore", "Store", "is_hub_id", "is_remote", "local_path", "open_store", "split_revision"]


def open_store(uri: str, variable: str, addressing_style: str = "auto", attempts: int | None = None) -> Store:
    """The store for a path, `file://` or `s3://` URI. Nothing is read or written yet.

    Open it when it is needed and do not keep it: credentials may rotate. `variable`, the setting of the URI, is for
    error messages; the addressing style is `auto`, `path` or `virtual`; `attempts` are per request.

    Raises:
        SettingsError: the scheme is not supported, or the URI is malformed.
    """
    if not is_remote(uri):
        return LocalStore(local_path(uri, variable), f"{variable}: {uri}")
    from mnrl_job.storage.s3 import connect  # takes 0.2 s, which a run on local folders does not need

    return connect(uri, variable, addressing_style, attempts)
