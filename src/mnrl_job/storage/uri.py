"""What a URI says, before anything is opened."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mnrl_job.errors import SettingsError

S3 = "s3://"
# What other programs write for S3.
S3_ALIASES = ("s3a", "s3n")
# What stands for a bucket in requests, and names itself with slashes.
ACCESS_POINT = re.compile(
    r"arn:aws[^:/]*:(?:s3|s3-object-lambda|s3-outposts):[^:/]*:\d{12}:(?:outpost[:/][^:/]+[:/])?accesspoint[:/][^:/]+"
)
BUCKETS = "write s3://BUCKET/PREFIX, or s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/PREFIX for an access point"


def is_remote(uri: str) -> bool:
    """Whether a URI names objects rather than files. Its scheme has no case."""
    return uri[: len(S3)].lower() == S3


def join(uri: str, name: str) -> str:
    """`s3://bucket/runs`, `r1` -> `s3://bucket/runs/r1`; the same for folders."""
    return f"{uri.rstrip('/')}/{name}" if uri.strip("/") else f"{uri}{name}"


def local_path(uri: str, variable: str) -> Path:
    """`file://` URIs and plain paths.

    Raises:
        SettingsError: for any other scheme.
    """
    scheme, colon, rest = uri.partition(":")
    if colon and scheme.lower() in ("arn", "s3"):
        raise SettingsError(f"{variable}: {uri} is neither a path nor a URI; {BUCKETS}")
    if "://" not in uri:
        return expanded(uri, variable)
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    what = f"{variable}: {uri}: {parts.scheme}:// is not supported"
    if parts.scheme in S3_ALIASES:
        raise SettingsError(f"{what}; write {S3}{rest.lstrip('/')}")
    if parts.scheme in ("http", "https"):
        raise SettingsError(f"{what}; {BUCKETS}, with AWS_ENDPOINT_URL where it is not AWS's, or fetch the file")
    raise SettingsError(f"{what}; give a path, file:// or s3:// URI")


def expanded(path: str, variable: str) -> Path:
    """A plain path; `~` is the user's home.

    Raises:
        SettingsError: that user is not known, or has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SettingsError(f"{variable}: {path}: there is no such home; give the whole path, or set HOME") from error


def is_hub_id(model: str) -> bool:
    """Whether a model's name is none of a folder or prefix, so that only the Hub can know it."""
    return "://" not in model and not model.startswith((".", "/", "~")) and not Path(model).exists()


def split_revision(model: str) -> tuple[str, str]:
    """`owner/name@revision` -> (`owner/name`, `revision`). In the name of a folder or prefix an `@` means nothing."""
    name, _, revision = model.partition("@") if is_hub_id(model) else (model, "", "")
    return name, revision


def bucket_and_prefix(uri: str, variable: str) -> tuple[str, str]:
    """`s3://bucket/some/prefix/` -> (`bucket`, `some/prefix`).

    Raises:
        SettingsError: there is no bucket in it, or credentials are.
    """
    place = uri[len(S3) :]
    if place.startswith("arn:"):
        return _access_point_and_prefix(uri, place, variable)
    bucket, _, prefix = place.partition("/")
    if "@" in bucket or ":" in bucket:
        raise SettingsError(
            f"{variable}: the bucket of an s3:// URI holds no credentials or port; set AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, or use a role"
        )
    if not bucket:
        raise SettingsError(f"{variable}: {uri} names no bucket; expected s3://BUCKET/PREFIX")
    return bucket, prefix.strip("/")


def _access_point_and_prefix(uri: str, place: str, variable: str) -> tuple[str, str]:
    arn = ACCESS_POINT.match(place)
    prefix = place[arn.end() :] if arn else ""
    if not arn or prefix[:1] not in ("", "/"):
        raise SettingsError(f"{variable}: {uri} is the ARN of no access point; {BUCKETS}")
    return arn[0], prefix.strip("/")
