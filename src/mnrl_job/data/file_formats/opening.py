"""Open data files, decompressing them by content rather than by name, and recognize files of other kinds."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pyarrow as pa

from mnrl_job.errors import DataError
from mnrl_job.system.git_lfs import POINTER_START

# Raised by reading a damaged file; the last two by a text or date in a Parquet file that Python cannot represent.
READ_ERRORS = (EOFError, OSError, zlib.error, pa.ArrowException, UnicodeDecodeError, OverflowError)

COMPRESSED = (".gz", ".zst")
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# A `.gz` file stored with `Content-Encoding: gzip` is compressed twice.
MAX_LAYERS = 2
HEAD = 4096
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")

DECOMPRESS = "decompress it, or use .gz or .zst"
SAVE_AS_CSV = "save the table as CSV UTF-8"
# The first bytes of other kinds of files, what they are, and the remedy.
FOREIGN = (
    (re.escape(POINTER_START), "a Git LFS pointer, not the data", "run git lfs pull in the clone"),
    (rb"PK\x03\x04", "a zip archive, as .xlsx and .ods are", f"{SAVE_AS_CSV}, or unpack it"),
    (rb"\xd0\xcf\x11\xe0", "an Office document, as .xls is", SAVE_AS_CSV),
    (rb"BZh[1-9]1AY&SY", "compressed by bzip2", DECOMPRESS),
    (rb"\xfd7zXZ\x00", "compressed by xz", DECOMPRESS),
    (rb"PAR1", "a Parquet file", "name it .parquet"),
    (rb"ARROW1", "an Arrow file", "write it as .parquet"),
    (rb"\x80[\x02-\x05][\x95}\]c]", "a pickle", SAVE_AS_CSV),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    (rb"(?i:\s*<(!doctype|html|\?xml))", "an HTML or XML page", "download the data itself, this may be an error page"),
)


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """Open a text file, decompressing gzip and zstd. Opening and reading raise `READ_ERRORS`.

    Raises:
        DataError: the file is of another kind.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(path.open("rb"))
        head = stream.peek(HEAD)
        suffix = path.suffix.lower() if path.suffix.lower() in COMPRESSED else ""
        if suffix and not head:
            raise EOFError("the file is empty")
        compression = detect_compression(head)
        if not compression:
            refuse_foreign(path, head)
            # HTTP clients that decompress a download keep its name.
            compression = "" if _is_text(head) else suffix
        for _ in range(MAX_LAYERS):
            if not compression:
                break
            stream = stack.enter_context(_decompress(stream, compression))
            head = stream.peek(HEAD)
            compression = detect_compression(head)
        refuse_foreign(path, head)
        yield stream


def refuse_foreign(path: Path, head: bytes, expected: bytes = b"") -> None:
    """Refuse a file of another kind by its first bytes; `expected` are those of the right kind, if they are known.

    Raises:
        DataError: naming the kind of file.
    """
    if expected and head.startswith(expected):
        return
    for start, what, remedy in FOREIGN:
        if re.match(start, head):
            raise DataError(f"{path}: the file is {what}; {remedy}")


def is_compressed(path: Path) -> bool:
    """Whether `open_bytes` would decompress a file, or might."""
    with path.open("rb") as file:
        return path.suffix.lower() in COMPRESSED or bool(detect_compression(file.read(HEAD)))


def detect_compression(head: bytes) -> str:
    """The suffix of the compression format; empty if not compressed."""
    return ".gz" if head.startswith(GZIP) else ".zst" if head.startswith(ZSTD) else ""


def _decompress(stream: io.BufferedReader, compression: str) -> io.BufferedReader:
    if compression == ".gz":
        return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=stream, mode="rb")))
    return io.BufferedReader(pa.CompressedInputStream(stream, "zstd"))


def _is_text(head: bytes) -> bool:
    if len(head) <= len(ZSTD):  # the rest of a truncated archive may look like text
        return False
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not CONTROL.search(text)
