"""S3 and compatible stores. The standard AWS_ configuration applies: profiles, web identity, endpoint URLs, retries."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from botocore.exceptions import BotoCoreError, ClientError

from mnrl_job.errors import SettingsError, StorageError
from mnrl_job.storage.base import CHUNK, PART_SIZE, Entry
from mnrl_job.storage.part_tracker import Wait
from mnrl_job.storage.s3_checksums import content_md5, etag_of, part_count
from mnrl_job.storage.s3_client import make_client
from mnrl_job.storage.s3_errors import (
    CORRUPTED,
    NO_CREDENTIALS,
    RAISED,
    TRANSIENT,
    WRITE_CONFLICT,
    code_of,
    explain,
    is_missing,
    precondition_failed,
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
# A response that stays below this rate for this long is stalled: it is requested again.
MIN_BYTES_PER_SECOND, STALL_SECONDS = 1024, 30.0
MAX_BACKOFF_SECONDS = 20.0
MAX_PARTS = 10_000

Result = TypeVar("Result")


def connect(uri: str, variable: str, addressing_style: str = "auto", attempts: int | None = None) -> "S3Store":
    """A store for `s3://bucket/prefix` with a new client, and so with the current credentials.

    Raises:
        SettingsError: the URI, the profile or the region is invalid.
        DeniedError: the credentials are refused.
        StorageError: the credential provider is unavailable.
    """
    bucket, prefix = bucket_and_prefix(uri, variable)
    try:
        max_attempts = attempts or int(os.environ.get("AWS_MAX_ATTEMPTS") or ATTEMPTS)
        client = make_client(addressing_style, max_attempts, _backoff)
    except (BotoCoreError, ValueError) as error:
        if isinstance(error, NO_CREDENTIALS):
            raise explain(error, f"{variable}: {uri}") from error
        raise SettingsError(
            f"{variable}: {uri}: {error}; check AWS_PROFILE, AWS_CONFIG_FILE, AWS_ENDPOINT_URL and AWS_MAX_ATTEMPTS"
        ) from error
    return S3Store(client, bucket, prefix, f"{variable}: {uri}", max_attempts)


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
        with self._translate_errors():
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root + prefix):
                for item in page.get("Contents", []):
                    # Consoles create empty objects for folders; rclone lists an object twice while it is overwritten.
                    if item["Key"] != last and not (item["Key"].endswith("/") and item["Size"] == 0):
                        last = item["Key"]
                        yield Entry(item["Key"].removeprefix(root), item["Size"], item["ETag"])

    def list_folders(self) -> Iterator[str]:
        listing = self.client.get_paginator("list_objects_v2")
        with self._translate_errors():
            for page in listing.paginate(Bucket=self.bucket, Prefix=self._key(""), Delimiter="/"):
                yield from (item["Prefix"].split("/")[-2] for item in page.get("CommonPrefixes", []))

    def stat(self, key: str) -> Entry | None:
        with self._translate_errors(key):
            try:
                head = self.client.head_object(Bucket=self.bucket, Key=self._key(key))
            except ClientError as error:
                # The response to a HEAD has no body with the reason: a missing bucket looks like a missing object.
                if is_missing(error):
                    return None
                raise
            return Entry(key, head["ContentLength"], head["ETag"])

    def read(self, entry: Entry, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        end = entry.size if stop is None else stop
        interruptions, last_interruption = 0, start
        while start < end:
            body = self._body(entry, start, end)
            try:
                for chunk in _chunks(body, end - start):
                    start += len(chunk)
                    yield chunk
            except TRANSIENT as error:
                interruptions = 1 if start - last_interruption > CHUNK else interruptions + 1
                last_interruption = start
                if interruptions >= self.attempts:
                    raise explain(error, f"{self.label}/{entry.key}") from error
                log(f"{entry.key}: interrupted at byte {start} of {end} ({type(error).__name__}), resuming")
                time.sleep(_backoff(interruptions))

    def write(self, key: str, data: bytes) -> None:
        with self._translate_errors(key):
            self._put(key, data, {})

    def create(self, key: str, source: Path | bytes) -> Entry | None:
        if not isinstance(source, bytes) and source.stat().st_size > PART_SIZE:
            with self._translate_errors(key):
                return self._retry_corrupted(lambda: self._create_in_parts(key, source))
        body = source if isinstance(source, bytes) else source.read_bytes()
        return self._conditionally(key, len(body), partial(self._put, key, body))

    def matches_checksum(self, entry: Entry, path: Path, wait: Wait = lambda _: None) -> bool | None:
        etag, parts = entry.version.strip('"'), part_count(entry.version)
        if parts is None:
            return None
        if parts == 0 and etag_of(path, entry.size, wait=wait) == etag:
            return True
        head = self._head(entry.key, {"PartNumber": 1} if parts else {})
        if head.get("SSECustomerAlgorithm") or head.get("ServerSideEncryption", "AES256") != "AES256":
            return None  # the ETag of an encrypted object is no checksum
        if parts == 0:
            return False
        part_size = head["ContentLength"]
        if part_size == 0 or -(-entry.size // part_size) != parts:
            return None
        if etag_of(path, entry.size, part_size, wait) == etag:
            return True
        return False if self._has_equal_parts(entry.key, parts, part_size) else None

    def delete(self, key: str) -> None:
        with self._translate_errors(key):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def remove_incomplete(self) -> None:
        listing = self.client.get_paginator("list_multipart_uploads")
        with self._translate_errors():
            try:
                for page in listing.paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/"):
                    for item in page.get("Uploads", []):
                        self._abort({"Bucket": self.bucket, "Key": item["Key"], "UploadId": item["UploadId"]})
            except ClientError as error:
                if status_of(error) == 403:
                    warn(f"{self.label}: cannot list unfinished multipart uploads; grant s3:ListBucketMultipartUploads")
                # Some S3-compatible stores cannot list them, and some respond so if there are none.
                elif code_of(error) not in ("NotImplemented", "MethodNotAllowed", "NoSuchUpload"):
                    raise

    def _head(self, key: str, part: Any) -> "HeadObjectOutputTypeDef":
        with self._translate_errors(key):
            return self.client.head_object(Bucket=self.bucket, Key=self._key(key), **part)

    def _has_equal_parts(self, key: str, parts: int, size: int) -> bool:
        """Whether all parts but the last have this size; otherwise the ETag cannot be recomputed."""
        sizes = parallel(lambda number: self._head(key, {"PartNumber": number})["ContentLength"], range(2, parts))
        return set(sizes) <= {size}

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _body(self, entry: Entry, start: int, stop: int) -> "StreamingBody":
        is_full = (start, stop) == (0, entry.size)
        span: Any = {} if is_full else {"Range": f"bytes={start}-{stop - 1}"}
        with self._translate_errors(entry.key):
            key = self._key(entry.key)
            return self.client.get_object(Bucket=self.bucket, Key=key, IfMatch=entry.version, **span)["Body"]

    def _put(self, key: str, body: bytes, condition: Any) -> str:
        """Upload an object with its Content-MD5, which buckets with Object Lock require. Returns its ETag."""
        content = {"Body": body, "ContentMD5": content_md5(body)}
        target: Any = {"Bucket": self.bucket, "Key": self._key(key), **content, **condition}
        return self._retry_corrupted(lambda: self.client.put_object(**target))["ETag"]

    def _retry_corrupted(self, send: Callable[[], Result]) -> Result:
        for attempt in range(1, self.attempts):
            try:
                return send()
            except ClientError as error:
                if code_of(error) not in CORRUPTED:
                    raise
            time.sleep(_backoff(attempt))
        return send()

    def _create_in_parts(self, key: str, path: Path) -> Entry | None:
        size = path.stat().st_size
        step = max(PART_SIZE // 2, -(-size // MAX_PARTS))
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
        """Write unless the key exists. 409 means that another conditional write is in progress: retry."""
        condition = {"IfNoneMatch": "*"}
        with self._translate_errors(key):
            for attempt in range(1, self.attempts + 1):
                try:
                    return Entry(key, size, send(condition))
                except ClientError as error:
                    if precondition_failed(error) or code_of(error) == "NoSuchUpload":  # the latter: a lost response
                        return None
                    if code_of(error) == "NotImplemented" and condition:
                        condition = {}
                    elif code_of(error) not in WRITE_CONFLICT:
                        raise
                time.sleep(_backoff(attempt))
        raise StorageError(f"{self.label}/{key}: concurrent writes by another process; start again")

    @contextmanager
    def _translate_errors(self, key: str = "") -> Iterator[None]:
        """Translate what boto3 raises, after its retries, into JobErrors."""
        try:
            yield
        except RAISED as error:
            where = f"{self.label.rstrip('/')}/{key}" if key else self.label
            if precondition_failed(error):
                raise StorageError(f"{where}: changed while being read; start again") from error
            raise explain(self._with_reason(error, key), where) from error

    def _with_reason(self, error: Exception, key: str) -> Exception:
        """Find the reason of a 400 to a HEAD, whose response has no body, by requests whose response has one."""
        if code_of(error) == "400":
            try:
                self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
                self.client.get_object(Bucket=self.bucket, Key=self._key(key), Range="bytes=0-0")
            except RAISED as detailed:
                return error if is_missing(detailed) else detailed
        return error


def _chunks(body: "StreamingBody", size: int) -> Iterator[bytes]:
    """Yield `size` bytes of a response; a `TRANSIENT` error if it ends early or stalls."""
    started, received = time.monotonic(), 0
    with cast("Any", body) as raw:  # urllib3's stream, whose read1 returns what has arrived
        while received < size:
            chunk = raw.read1(min(CHUNK, size - received))
            if not chunk:
                raise ConnectionError(f"the response ended after {received} of {size} bytes")
            received += len(chunk)
            yield chunk
            elapsed = time.monotonic() - started
            if elapsed > STALL_SECONDS and received < MIN_BYTES_PER_SECOND * elapsed:
                raise TimeoutError(f"the response stalled: {received} bytes in {elapsed:.0f} s")


def _backoff(attempt: int) -> float:
    """Exponential backoff in seconds, with full jitter so that clients do not retry in lockstep."""
    return random.uniform(0, min(MAX_BACKOFF_SECONDS, 0.5 * 2**attempt))
