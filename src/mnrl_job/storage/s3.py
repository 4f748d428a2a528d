"""S3 and what speaks like it. Standard AWS_ configuration applies: profiles, web identity, endpoint URLs, retries."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from botocore.exceptions import BotoCoreError, ClientError

from mnrl_job.errors import SettingsError, StorageError
from mnrl_job.storage.base import CHUNK, PART_SIZE, Entry
from mnrl_job.storage.part_tracker import Wait
from mnrl_job.storage.s3_checksums import content_md5, etag_of, parts_of
from mnrl_job.storage.s3_client import make_client
from mnrl_job.storage.s3_errors import (
    IN_THE_WAY,
    NO_CREDENTIALS,
    RAISED,
    SPOILED,
    TRANSIENT,
    code_of,
    explain,
    is_missing,
    is_taken,
    status_of,
)
from mnrl_job.storage.uri import bucket_and_prefix
from mnrl_job.system.logs import log, warn
from mnrl_job.system.threads import parallel

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedMultipartUploadTypeDef, CompletedPartTypeDef, HeadObjectOutputTypeDef

ATTEMPTS = 6
# A body that arrives more slowly than this for so long is given up and asked for again.
SLOWEST_BYTES_PER_SECOND, PATIENCE_SECONDS = 1024, 30.0
LONGEST_PAUSE_SECONDS = 20.0
MOST_PARTS = 10_000

Result = TypeVar("Result")


def connect(uri: str, variable: str, addressing_style: str = "auto", attempts: int | None = None) -> "S3Store":
    """A store over `s3://bucket/prefix` with a client of its own, so that it has the credentials of this moment.

    Raises:
        SettingsError: the URI, the profile or the region is not usable.
        DeniedError: credentials are refused.
        StorageError: whoever hands out credentials is away.
    """
    bucket, prefix = bucket_and_prefix(uri, variable)
    try:
        tries = attempts or int(os.environ.get("AWS_MAX_ATTEMPTS") or ATTEMPTS)
        client = make_client(addressing_style, tries, _pause)
    except (BotoCoreError, ValueError) as error:
        if isinstance(error, NO_CREDENTIALS):
            raise explain(error, f"{variable}: {uri}") from error
        raise SettingsError(
            f"{variable}: {uri}: {error}; check AWS_PROFILE, AWS_CONFIG_FILE, AWS_ENDPOINT_URL and AWS_MAX_ATTEMPTS"
        ) from error
    return S3Store(client, bucket, prefix, f"{variable}: {uri}", tries)


@dataclass(frozen=True, slots=True)
class S3Store:
    """Objects below `s3://bucket/prefix/`."""

    client: "S3Client"
    bucket: str
    prefix: str
    label: str
    attempts: int = ATTEMPTS

    def join(self, name: str) -> "S3Store":
        return replace(self, prefix=self._key(name), label=f"{self.label.rstrip('/')}/{name}")

    def list_objects(self, prefix: str = "") -> Iterator[Entry]:
        root, last = f"{self.prefix}/" if self.prefix else "", None
        with self._failures():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root + prefix)
            for page in pages:
                for found in page.get("Contents", []):
                    # Consoles make empty objects for folders; rclone lists one that is being overwritten twice.
                    if found["Key"] != last and not (found["Key"].endswith("/") and found["Size"] == 0):
                        last = found["Key"]
                        yield Entry(found["Key"].removeprefix(root), found["Size"], found["ETag"])

    def stat(self, key: str) -> Entry | None:
        with self._failures(key):
            try:
                found = self.client.head_object(Bucket=self.bucket, Key=self._key(key))
            except ClientError as error:
                # A HEAD has no body to name the reason in: a missing bucket looks like a missing object.
                if is_missing(error):
                    return None
                raise
            return Entry(key, found["ContentLength"], found["ETag"])

    def read(self, entry: Entry, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        end = entry.size if stop is None else stop
        cuts, last_cut = 0, start
        while start < end:
            body = self._body(entry, start, end)
            try:
                for chunk in _chunks(body, end - start):
                    start += len(chunk)
                    yield chunk
            except TRANSIENT as error:
                cuts = 1 if start - last_cut > CHUNK else cuts + 1
                last_cut = start
                if cuts >= self.attempts:
                    raise explain(error, f"{self.label}/{entry.key}") from error
                log(f"{entry.key}: cut at byte {start} of {end} ({type(error).__name__}); resuming")
                time.sleep(_pause(cuts))

    def write(self, key: str, data: bytes) -> None:
        with self._failures(key):
            self._put(key, data, {})

    def create(self, key: str, source: Path | bytes) -> Entry | None:
        if not isinstance(source, bytes) and source.stat().st_size > PART_SIZE:
            with self._failures(key):
                return self._unspoiled(lambda: self._create_in_parts(key, source))
        body = source if isinstance(source, bytes) else source.read_bytes()

        def send(condition: Any) -> str:
            return self._put(key, body, condition)

        return self._conditionally(key, len(body), send)

    def matches_checksum(self, entry: Entry, path: Path, wait: Wait = lambda _: None) -> bool | None:
        told, parts = entry.version.strip('"'), parts_of(entry.version)
        if parts is None:
            return None
        if parts == 0 and etag_of(path, entry.size, wait=wait) == told:
            return True
        facts = self._head(entry.key, {"PartNumber": 1} if parts else {})
        if facts.get("SSECustomerAlgorithm") or facts.get("ServerSideEncryption", "AES256") != "AES256":
            return None  # the ETag of an encrypted object is no checksum
        if parts == 0:
            return False
        part_size = facts["ContentLength"]
        if part_size == 0 or -(-entry.size // part_size) != parts:
            return None
        if etag_of(path, entry.size, part_size, wait) == told:
            return True
        return False if self._all_parts_have(part_size, entry.key, parts) else None

    def delete(self, key: str) -> None:
        with self._failures(key):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def remove_incomplete(self) -> None:
        listing = self.client.get_paginator("list_multipart_uploads")
        with self._failures():
            try:
                for page in listing.paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/"):
                    for found in page.get("Uploads", []):
                        self._abort({"Bucket": self.bucket, "Key": found["Key"], "UploadId": found["UploadId"]})
            except ClientError as error:
                if status_of(error) == 403:
                    warn(f"{self.label}: cannot look for unfinished uploads; grant s3:ListBucketMultipartUploads")
                # Some S3-likes do not list them, and some answer so where there are none.
                elif code_of(error) not in ("NotImplemented", "MethodNotAllowed", "NoSuchUpload"):
                    raise

    def _head(self, key: str, part: Any) -> "HeadObjectOutputTypeDef":
        with self._failures(key):
            return self.client.head_object(Bucket=self.bucket, Key=self._key(key), **part)

    def _all_parts_have(self, size: int, key: str, parts: int) -> bool:
        """Whether all but the last part are of one size; else an ETag of parts cannot be reckoned again."""
        sizes = parallel(lambda number: self._head(key, {"PartNumber": number})["ContentLength"], range(2, parts))
        return set(sizes) <= {size}

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _body(self, entry: Entry, start: int, stop: int) -> "StreamingBody":
        whole = (start, stop) == (0, entry.size)
        span: Any = {} if whole else {"Range": f"bytes={start}-{stop - 1}"}
        with self._failures(entry.key):
            return self.client.get_object(Bucket=self.bucket, Key=self._key(entry.key), IfMatch=entry.version, **span)[
                "Body"
            ]

    def _put(self, key: str, body: bytes, condition: Any) -> str:
        """Send an object with its checksum, which buckets with Object Lock ask for. Returns its ETag."""
        target: Any = {"Bucket": self.bucket, "Key": self._key(key), **condition}
        put = self.client.put_object
        return self._unspoiled(lambda: put(**target, Body=body, ContentMD5=content_md5(body)))["ETag"]

    def _unspoiled(self, send: Callable[[], Result]) -> Result:
        """Send a body again where it arrived as something else."""
        for attempt in range(1, self.attempts):
            try:
                return send()
            except ClientError as error:
                if code_of(error) not in SPOILED:
                    raise
            time.sleep(_pause(attempt))
        return send()

    def _create_in_parts(self, key: str, path: Path) -> Entry | None:
        size = path.stat().st_size
        step = max(PART_SIZE // 2, -(-size // MOST_PARTS))
        target: Any = {"Bucket": self.bucket, "Key": self._key(key)}
        target["UploadId"] = self.client.create_multipart_upload(**target)["UploadId"]

        def send(number: int) -> "CompletedPartTypeDef":
            with path.open("rb") as handle:
                handle.seek((number - 1) * step)
                body = handle.read(step)
            part = self.client.upload_part(**target, PartNumber=number, Body=body, ContentMD5=content_md5(body))
            return {"PartNumber": number, "ETag": part["ETag"]}

        def complete(condition: Any) -> str:
            parts: CompletedMultipartUploadTypeDef = {"Parts": sent}
            return self.client.complete_multipart_upload(**target, MultipartUpload=parts, **condition)["ETag"]

        created = None
        try:
            sent = parallel(send, range(1, -(-size // step) + 1))
            created = self._conditionally(key, size, complete)
        finally:
            if created is None:
                with suppress(BotoCoreError, ClientError):
                    self._abort(target)
        return created

    def _abort(self, target: Any) -> None:
        try:
            self.client.abort_multipart_upload(**target)
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":
                raise

    def _conditionally(self, key: str, size: int, send: Callable[[Any], str]) -> Entry | None:
        """Send a write that must find nothing there. 409 means that another such write is under way: look again."""
        condition = {"IfNoneMatch": "*"}
        with self._failures(key):
            for attempt in range(1, self.attempts + 1):
                try:
                    return Entry(key, size, send(condition))
                except ClientError as error:
                    if is_taken(error) or code_of(error) == "NoSuchUpload":  # the latter: its answer was lost
                        return None
                    if code_of(error) == "NotImplemented" and condition:
                        condition = {}
                    elif code_of(error) not in IN_THE_WAY:
                        raise
                time.sleep(_pause(attempt))
        raise StorageError(f"{self.label}/{key}: another writer stays in the way; start again")

    @contextmanager
    def _failures(self, key: str = "") -> Iterator[None]:
        """Turn what boto3 raises, after its retries, into our errors."""
        try:
            yield
        except RAISED as error:
            where = f"{self.label.rstrip('/')}/{key}" if key else self.label
            if is_taken(error):
                raise StorageError(f"{where}: changed while it was read; start again") from error
            raise explain(self._named(error, key), where) from error

    def _named(self, error: Exception, key: str) -> Exception:
        """The reason of a HEAD's bare 400, which has no body to name it in: what others are answered now."""
        if code_of(error) == "400":
            try:
                self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
                self.client.get_object(Bucket=self.bucket, Key=self._key(key), Range="bytes=0-0")
            except RAISED as named:
                return error if is_missing(named) else named
        return error


def _chunks(body: "StreamingBody", wanted: int) -> Iterator[bytes]:
    """`wanted` bytes of one answer; a `TRANSIENT` error where it ends early or crawls."""
    began, got = time.monotonic(), 0
    with cast("Any", body) as raw:  # urllib3's own stream, which can read what has arrived without waiting for more
        while got < wanted:
            chunk = raw.read1(min(CHUNK, wanted - got))
            if not chunk:
                raise ConnectionError(f"the body ended after {got} of {wanted} bytes")
            got += len(chunk)
            yield chunk
            elapsed = time.monotonic() - began
            if elapsed > PATIENCE_SECONDS and got < SLOWEST_BYTES_PER_SECOND * elapsed:
                raise TimeoutError(f"the body crawls: {got} bytes in {elapsed:.0f} s")


def _pause(attempt: int) -> float:
    """Seconds to wait: exponential with full jitter, so that many clients do not come back at once."""
    return random.uniform(0, min(LONGEST_PAUSE_SECONDS, 0.5 * 2**attempt))
