"""Parsing of URIs."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mnrl_job.errors import SettingsError

S3 = "s3://"
# Schemes of other programs for S3.
S3_ALIASES = ("s3a", "s3n")
# An access point takes the place of a bucket in requests; its name contains slashes.
ACCESS_POINT = re.compile(
    r"arn:aws[^:/]*:(?:s3|s3-object-lambda|s3-outposts):[^:/]*:\d{12}:(?:outpost[:/][^:/]+[:/])?accesspoint[:/][^:/]+"
)
BUCKETS = "write s3://BUCKET/PREFIX, or s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/PREFIX for an access point"


def is_remote(uri: str) -> bool:
    """Whether a URI names objects rather than files. The scheme is case-insensitive."""
    return uri[: len(S3)].lower() == S3


def join(uri: str, name: str) -> str:
    """`s3://bucket/runs`, `r1` -> `s3://bucket/runs/r1`; the same for folders."""
    return f"{uri.rstrip('/')}/{name}" if uri.strip("/") else f"{uri}{name}"


def local_path(uri: str, variable: str) -> Path:
    """The path of a `file://` URI or a plain path.

    Raises:
        SettingsError: any other scheme.
    """
    scheme, colon, rest = uri.partition(":")
    if colon and scheme.lower() in ("arn", "s3"):
        raise SettingsError(f"{variable}: {uri} is neither a path nor a URI; {BUCKETS}")
    if "://" not in uri:
        return expand_user(uri, variable)
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    message = f"{variable}: {uri}: {parts.scheme}:// is not supported"
    if parts.scheme in S3_ALIASES:
        raise SettingsError(f"{message}; write {S3}{rest.lstrip('/')}")
    if parts.scheme in ("http", "https"):
        raise SettingsError(f"{message}; {BUCKETS}, with AWS_ENDPOINT_URL where it is not AWS, or download the file")
    raise SettingsError(f"{message}; give a path, file:// or s3:// URI")


def expand_user(path: str, variable: str) -> Path:
    """A path with `~` expanded.

    Raises:
        SettingsError: the user is unknown or has no home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SettingsError(f"{variable}: {path}: home directory not found; give the full path, or set HOME") from error


def is_hub_id(model: str) -> bool:
    """Whether a model is named by its Hub id rather than a folder or prefix."""
    return "://" not in model and not model.startswith((".", "/", "~")) and not Path(model).exists()


def split_revision(model: str) -> tuple[str, str]:
    """`owner/name@revision` -> (`owner/name`, `revision`). An `@` in a folder or prefix is no separator."""
    name, _, revision = model.partition("@") if is_hub_id(model) else (model, "", "")
    return name, revision


def bucket_and_prefix(uri: str, variable: str) -> tuple[str, str]:
    """`s3://bucket/some/prefix/` -> (`bucket`, `some/prefix`).

    Raises:
        SettingsError: it has no bucket, or contains credentials.
    """
    path = uri[len(S3) :]
    if path.startswith("arn:"):
        return _access_point_and_prefix(uri, path, variable)
    bucket, _, prefix = path.partition("/")
    if "@" in bucket or ":" in bucket:
        raise SettingsError(
            f"{variable}: an s3:// URI must not contain credentials or a port; set AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, or use a role"
        )
    if not bucket:
        raise SettingsError(f"{variable}: {uri} has no bucket; expected s3://BUCKET/PREFIX")
    return bucket, prefix.strip("/")


def _access_point_and_prefix(uri: str, path: str, variable: str) -> tuple[str, str]:
    arn = ACCESS_POINT.match(path)
    prefix = path[arn.end() :] if arn else ""
    if not arn or prefix[:1] not in ("", "/"):
        raise SettingsError(f"{variable}: {uri} is not the ARN of an access point; {BUCKETS}")
    return arn[0], prefix.strip("/")
