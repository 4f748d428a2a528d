"""The checksum S3 keeps of an object: its ETag, where that is one; and the one that is sent with it."""

import base64
import hashlib
import re
from pathlib import Path

from mnrl_job.storage.base import CHUNK
from mnrl_job.storage.part_tracker import Wait


def content_md5(body: bytes) -> str:
    """What the header Content-MD5 says of a body."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def parts_of(etag: str) -> int | None:
    """How many parts an ETag was made of: 0 for the MD5 of the whole, None where it is no MD5 at all."""
    told = re.fullmatch(r'"?[0-9a-f]{32}(?:-(\d+))?"?', etag)
    return int(told[1] or 0) if told else None


def etag_of(path: Path, size: int, part_size: int | None = None, wait: Wait = lambda _: None) -> str:
    """The ETag a file would have: its MD5, or for an object sent in parts the MD5 of their MD5s and their number.

    Args:
        path: the file; it may still be arriving.
        size: its size in bytes, in the end.
        part_size: bytes of each part but the last; None for an object sent whole.
        wait: called with a byte position before the bytes before it are read.
    """
    step = part_size or max(1, size)
    digests = [_md5(path, start, min(start + step, size), wait) for start in range(0, max(1, size), step)]
    if part_size is None:
        return digests[0].hexdigest()
    return f"{hashlib.md5(b''.join(one.digest() for one in digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


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
