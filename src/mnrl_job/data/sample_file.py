"""Sample one file into a file of the same format.

Of text files a sample has evenly spaced blocks, of Parquet files the first rows of evenly spaced row groups. Compressed
text can be read from its beginning only, and so are BEIR's judgments.
"""

import gzip
import re
from bisect import bisect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnrl_job.data.file_formats.opening import GZIP, READ_ERRORS, detect_compression, open_bytes
from mnrl_job.data.file_formats.rows import PARQUET, SEPARATORS, format_suffix, translate_read_errors
from mnrl_job.data.tables import evenly_spaced
from mnrl_job.errors import DataError
from mnrl_job.storage import Entry, RangedFile, Store
from mnrl_job.system.threads import parallel

# Few, because bad rows often come in runs.
BLOCK_ROWS = 100
BLOCKS_AT_ONCE = 64
# Bytes at the beginning of a file that give the length of its rows: several blocks of a zstd frame.
HEAD = 1 << 18
PARQUET_BUFFER = 1 << 16
BEIR_ROWS = ("qrels/train.tsv", "qrels/train.tsv.gz")
# A quotation mark that certainly opens or closes a text: those inside are doubled.
QUOTE = re.compile(rb'[\r\n,;\t|]"[^"\r\n,;\t|]|(?P<closing>[^"\r\n,;\t|]"[\r\n,;\t|])')


@dataclass(frozen=True, slots=True)
class File:
    """A file of a store by the name that the user knows, and its estimated rows; 0 if all of it is needed."""

    name: str
    store: Store
    entry: Entry
    rows: int = 0

    @property
    def suffix(self) -> str:
        return format_suffix(Path(self.entry.key))

    @property
    def is_delimited(self) -> bool:
        return self.suffix in SEPARATORS

    def read(self, start: int, stop: int) -> bytes:
        return b"".join(self.store.read(self.entry, start, min(stop, self.entry.size)))


@dataclass(frozen=True, slots=True)
class SampledFile:
    """The blocks of a sample: each begins at one of its `lines`, and at `positions` of the file, in bytes or rows.

    `rows` is the estimated number of the file's rows; `read` bytes of it were read.
    """

    name: str
    rows: int = 0
    read: int = 0
    lines: tuple[int, ...] = (1,)
    positions: tuple[int, ...] = (0,)
    in_bytes: bool = False
    is_beginning: bool = False

    def locate(self, line: int) -> str:
        """Where a line of the sample is in the file; its number is known at the beginning, and of Parquet's rows."""
        block = bisect(self.lines, line) - 1
        position = self.positions[block]
        if self.in_bytes and position:
            return f"{self.name}, near byte {position}"
        return f"{self.name}:{position + line - self.lines[block] + 1}"


def estimate_rows(file: File, path: Path) -> int:
    """The number of rows, of text by the length of the first ones. The file at `path` is overwritten.

    A file that cannot be read counts as one row: whoever reads the sample learns why.
    """
    with suppress(DataError, *READ_ERRORS):
        if file.suffix == PARQUET:
            with pq.ParquetFile(RangedFile(file.store, file.entry)) as parquet:
                return max(1, int(parquet.metadata.num_rows))
        head = file.read(0, HEAD)
        path.write_bytes(head)
        return max(1, sum(1 for _ in _records(path, file.is_delimited)) * file.entry.size // max(1, len(head)))
    return 1


def sample_file(file: File, rows: int, path: Path) -> SampledFile:
    """Write a sample of about so many rows to `path`.

    Raises:
        DataError: a Parquet file is damaged.
    """
    if file.suffix == PARQUET:
        with translate_read_errors(Path(file.name)):
            return _sample_row_groups(file, rows, path)
    if file.entry.key in BEIR_ROWS or detect_compression(file.read(0, len(GZIP) + 2)):
        return _sample_beginning(file, rows, path)
    return _sample_blocks(file, rows, path)


def _sample_row_groups(file: File, rows: int, path: Path) -> SampledFile:
    source = RangedFile(file.store, file.entry)
    lines, positions = [1], [0]
    with pq.ParquetFile(source, buffer_size=PARQUET_BUFFER, page_checksum_verification=True) as parquet:
        metadata = parquet.metadata
        starts = np.cumsum([0, *(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))])
        groups = evenly_spaced(metadata.num_row_groups, max(1, rows // BLOCK_ROWS))
        with pq.ParquetWriter(path, parquet.schema_arrow) as writer:
            for group in groups.tolist():
                for batch in islice(parquet.iter_batches(-(-rows // len(groups)), [group]), 1):
                    writer.write_batch(batch)
                    positions.append(int(starts[group]))
                    lines.append(lines[-1] + batch.num_rows)
    return SampledFile(file.name, file.rows, source.fetched, tuple(lines[:-1]), tuple(positions[1:]))


def _sample_beginning(file: File, rows: int, path: Path) -> SampledFile:
    """Compressed, since a file without compression would be taken as damaged by a name that ends with `.gz`."""
    stop = min(file.entry.size, max(HEAD, rows * file.entry.size // file.rows))
    beginning, count = path.with_name(f"{path.name}.beginning{path.suffix}"), 0
    with beginning.open("wb") as target:
        target.writelines(file.store.read(file.entry, 0, stop))
    with gzip.open(path, "wb", compresslevel=1) as sample:
        for count, record in enumerate(_records(beginning, file.is_delimited), 1):  # noqa: B007
            sample.write(record)
    beginning.unlink()
    estimated = count * file.entry.size // stop
    return SampledFile(file.name, estimated, stop, is_beginning=stop < file.entry.size)


def _sample_blocks(file: File, rows: int, path: Path) -> SampledFile:
    size, total = -(-BLOCK_ROWS * file.entry.size // file.rows), file.entry.size
    count = max(1, round(rows / BLOCK_ROWS))
    if count * size >= total:
        count, size = 1, total
    starts = [round(at) for at in np.linspace(0, total - size, count)] if total else []
    lines, positions, row_ends, seen = [1], [], 0, 0
    with path.open("wb") as sample:
        for first in range(0, len(starts), BLOCKS_AT_ONCE):
            some = starts[first : first + BLOCKS_AT_ONCE]
            for start, block in zip(some, parallel(lambda at: file.read(at, at + size), some), strict=True):
                begin, content, ends = _cut(block, start, start + size >= total, file.is_delimited)
                row_ends, seen = row_ends + ends, seen + len(block)
                if content:
                    sample.write(content)
                    positions.append(begin)
                    count_lines = len(content.splitlines()) if file.is_delimited else content.count(b"\n")
                    lines.append(lines[-1] + count_lines)
        estimated = round(total * row_ends / seen) if row_ends else file.rows
    return SampledFile(file.name, estimated, len(starts) * size, tuple(lines[:-1]), tuple(positions), in_bytes=True)


def _cut(block: bytes, start: int, is_last: bool, is_delimited: bool) -> tuple[int, bytes, int]:
    """The position in the file of the whole records of a block, these records, and how many end in the block."""
    ends = _record_ends(block, is_delimited and start > 0) if is_delimited else _newlines(block)
    if start and not len(ends):
        return start, b"", 0
    begin = int(ends[0]) + 1 if start else 0
    stop = len(block) if is_last or not len(ends) else int(ends[-1]) + 1
    return start + begin, block[begin:stop], len(ends)


def _newlines(block: bytes) -> NDArray[np.int64]:
    return np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))


def _record_ends(block: bytes, may_begin_inside: bool) -> NDArray[np.int64]:
    """The line ends that are not inside a quoted text.

    Where texts are not quoted, each line end is one of a record, so that some can be missed.
    """
    newlines = _newlines(block)
    quotes = np.cumsum(np.frombuffer(block, np.uint8) == ord('"'))
    is_outside: NDArray[np.bool_] = (quotes[newlines] + (may_begin_inside and _begins_inside(block))) % 2 == 0
    return newlines[is_outside]


def _begins_inside(block: bytes) -> bool:
    """Whether a block begins inside a quoted text, by the first quotation mark that certainly opens or closes one."""
    quote = QUOTE.search(block)
    return quote is not None and block.count(b'"', 0, quote.start() + 1) % 2 == (quote["closing"] is None)


def _records(path: Path, is_delimited: bool) -> Iterator[bytes]:
    """The records of the beginning of a file, without an incomplete last one."""
    record, quotes = bytearray(), 0
    with suppress(*READ_ERRORS), open_bytes(path) as handle:
        for line in handle:
            record += line
            quotes += line.count(b'"') if is_delimited else 0
            if line.endswith(b"\n") and quotes % 2 == 0:
                yield bytes(record)
                record.clear()
