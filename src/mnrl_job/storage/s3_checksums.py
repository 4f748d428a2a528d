"""MD5 checksums of S3: the Content-MD5 header, and ETags of objects sent whole or in parts."""

import base64
import hashlib
import re
from pathlib import Path

from mnrl_job.storage.base import CHUNK
from mnrl_job.storage.part_tracker import Wait


def content_md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def part_count(etag: str) -> int | None:
    """Number of parts behind an ETag: 0 for an object sent whole, None if the ETag is no MD5."""
    match = re.fullmatch(r'"?[0-9a-f]{32}(?:-(\d+))?"?', etag)
    return int(match[1] or 0) if match else None


def etag_of(path: Path, size: int, part_size: int | None = None, wait: Wait = lambda _: None) -> str:
    """The ETag S3 computes: the MD5, or for a multipart upload the MD5 of the parts' MD5s, and their number.

    The file may still be downloading: `size` is the final one, and `wait(stop)` is called before the bytes up to `stop`
    are read. `part_size` is of each part but the last; None for an object sent whole.
    """
    step = part_size or max(1, size)
    digests = [_md5(path, start, min(start + step, size), wait) for start in range(0, max(1, size), step)]
    if part_size is None:
        return digests[0].hexdigest()
    return (
        f"{hashlib.md5(b''.join(part.digest() for part in digests), usedforsecurity=False).hexdigest()}-{len(digests)}"
    )


def _md5(path: Path, start: int, stop: int, wait: Wait) -> "hashlib._Hash":
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb", buffering=0) as handle:
        handle.seek(start)
        while start < stop:
            wait(min(start + CHUNK, stop))
            if not (chunk := handle.read(min(CHUNK, stop - start))):
                break
            start += len(chunk)
            digest.update(chunk)
    return digest
