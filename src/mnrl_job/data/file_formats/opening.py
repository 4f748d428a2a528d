"""A data file's bytes, unpacked by what they are rather than by its name; files of other kinds are told apart."""

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

# What reading a damaged file raises. The last two: a Parquet file's text or date that Python cannot hold.
READ_ERRORS = (EOFError, OSError, zlib.error, pa.ArrowException, UnicodeDecodeError, OverflowError)

COMPRESSED = (".gz", ".zst")
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# A `.gz` file that was stored with `Content-Encoding: gzip` is packed twice.
MOST_LAYERS = 2
HEAD = 4096
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")

UNPACK = "decompress it, or use .gz or .zst"
SAVE_TABLE = "save the table as CSV UTF-8"
# What other kinds of files begin with, what they are, and what to do.
FOREIGN = (
    (re.escape(POINTER_START), "a Git LFS pointer, not the data", "run git lfs pull in the clone"),
    (rb"PK\x03\x04", "a zip archive, as .xlsx and .ods are", f"{SAVE_TABLE}, or unpack it"),
    (rb"\xd0\xcf\x11\xe0", "an Office document, as .xls is", SAVE_TABLE),
    (rb"BZh[1-9]1AY&SY", "compressed by bzip2", UNPACK),
    (rb"\xfd7zXZ\x00", "compressed by xz", UNPACK),
    (rb"PAR1", "a Parquet file", "name it .parquet"),
    (rb"ARROW1", "an Arrow file", "write it as .parquet"),
    (rb"\x80[\x02-\x05][\x95}\]c]", "a pickle", SAVE_TABLE),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    (rb"(?i:\s*<(!doctype|html|\?xml))", "an HTML or XML page", "download the data itself, this may be an error page"),
)


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """Open a text file, decompressing what is gzip or zstd. Opening and reading raise `READ_ERRORS`.

    Raises:
        DataError: it is a file of another kind.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(path.open("rb"))
        head = stream.peek(HEAD)
        packed = path.suffix.lower() if path.suffix.lower() in COMPRESSED else ""
        if packed and not head:
            raise EOFError("the file is empty")
        # An HTTP client that unpacks what it fetches keeps the name.
        kind = packing(head)
        if not kind:
            refuse_foreign(path, head)
            kind = "" if _is_text(head) else packed
        for _ in range(MOST_LAYERS):
            if not kind:
                break
            stream = stack.enter_context(_unpacked(stream, kind))
            head = stream.peek(HEAD)
            kind = packing(head)
        refuse_foreign(path, head)
        yield stream


def refuse_foreign(path: Path, head: bytes, expected: bytes = b"") -> None:
    """Refuse a file whose first bytes are another kind's.

    Args:
        path: of the file, for the message.
        head: its first bytes.
        expected: what a file of this kind begins with, where that is known.

    Raises:
        DataError: it tells what the file is.
    """
    if expected and head.startswith(expected):
        return
    for start, what, remedy in FOREIGN:
        if re.match(start, head):
            raise DataError(f"{path}: the file is {what}; {remedy}")


def packing(head: bytes) -> str:
    """The suffix of what begins so, empty where that is not compressed."""
    return ".gz" if head.startswith(GZIP) else ".zst" if head.startswith(ZSTD) else ""


def _unpacked(stream: io.BufferedReader, kind: str) -> io.BufferedReader:
    if kind == ".gz":
        return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=stream, mode="rb")))
    return io.BufferedReader(pa.CompressedInputStream(stream, "zstd"))


def _is_text(head: bytes) -> bool:
    if len(head) <= len(ZSTD):  # what is left of an archive may look like text
        return False
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not CONTROL.search(text)
