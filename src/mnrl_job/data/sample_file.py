"""Sample one file into a file of the same format.

Of text files a sample has evenly spaced blocks, of Parquet files the first rows of evenly spaced row groups. Compressed
text can be read from its beginning only, and so are BEIR's judgments.
"""

import gzip
import re
from bisect import bisect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnrl_job.data.file_formats.opening import GZIP, READ_ERRORS, detect_compression, open_bytes
from mnrl_job.data.file_formats.rows import PARQUET, SEPARATORS, format_suffix, translate_read_errors
from mnrl_job.data.tables import evenly_spaced
from mnrl_job.errors import DataError
from mnrl_job.storage import Entry, Store
from mnrl_job.storage.ranged_file import RangedFile
from mnrl_job.system.threads import parallel

# Few, because bad rows often come in runs.
BLOCK_ROWS = 100
BLOCKS_AT_ONCE = 64
# Bytes at the beginning of a file that give the length of its rows: several blocks of a zstd frame.
HEAD = 1 << 18
PARQUET_BUFFER = 1 << 18
BEIR_ROWS = ("qrels/train.tsv", "qrels/train.tsv.gz")
# A quotation mark that certainly opens or closes a text: those inside are doubled.
QUOTE = re.compile(rb'[\r\n,;\t|]"[^"\r\n,;\t|]|(?P<closing>[^"\r\n,;\t|]"[\r\n,;\t|])')


@dataclass(frozen=True, slots=True)
class SampledFile:
    """A file, by the name that the user knows, and the sample of it at `path`, for which `read` bytes were read.

    The blocks of the sample begin at these `lines` of it, and at `positions` of the file, in bytes or rows. `rows`, an
    estimate, are the file's; 0 if all of the file is needed.
    """

    name: str
    store: Store
    entry: Entry
    path: Path
    rows: int = 0
    read: int = 0
    lines: tuple[int, ...] = (1,)
    positions: tuple[int, ...] = (0,)
    in_bytes: bool = False

    @property
    def is_delimited(self) -> bool:
        return format_suffix(self.path) in SEPARATORS

    @property
    def is_beginning(self) -> bool:
        """Whether nothing else of the file was read."""
        return len(self.lines) == 1 and self.read < self.entry.size

    def read_range(self, start: int, stop: int) -> bytes:
        return b"".join(self.store.read(self.entry, start, min(stop, self.entry.size)))

    def locate(self, line: int) -> str:
        """Where a line of the sample is in the file; its number is known at the beginning, and of Parquet's rows."""
        block = bisect(self.lines, line) - 1
        position = self.positions[block]
        if self.in_bytes and position:
            return f"{self.name}, near byte {position}"
        return f"{self.name}:{position + line - self.lines[block] + 1}"


def estimate_rows(file: SampledFile) -> int:
    """The number of rows, of text by the length of the first ones.

    A file that cannot be read counts as one row: whoever reads the sample learns why.
    """
    with suppress(DataError, *READ_ERRORS):
        if format_suffix(file.path) == PARQUET:
            with pq.ParquetFile(RangedFile(file.store, file.entry)) as parquet:
                return max(1, int(parquet.metadata.num_rows))
        head = file.read_range(0, HEAD)
        file.path.write_bytes(head)
        return max(1, sum(1 for _ in _records(file.path, file.is_delimited))) * file.entry.size // max(1, len(head))
    return 1


def sample_file(file: SampledFile, rows: int, threads: int) -> SampledFile:
    """Write a sample of about so many rows, reading it by so many threads.

    Raises:
        DataError: a Parquet file is damaged.
    """
    if format_suffix(file.path) == PARQUET:
        with translate_read_errors(Path(file.name)):
            return _sample_row_groups(file, rows)
    if file.entry.key in BEIR_ROWS or detect_compression(file.read_range(0, len(GZIP) + 2)):
        return _sample_beginning(file, rows)
    return _sample_blocks(file, rows, threads)


def _sample_row_groups(file: SampledFile, rows: int) -> SampledFile:
    source = RangedFile(file.store, file.entry)
    lines, positions = [1], []
    options = {"buffer_size": PARQUET_BUFFER, "pre_buffer": False}  # else whole columns are fetched
    with pq.ParquetFile(source, page_checksum_verification=True, **options) as parquet:
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        groups = evenly_spaced(len(sizes), max(1, rows // BLOCK_ROWS)).tolist()
        with pq.ParquetWriter(file.path, parquet.schema_arrow) as writer:
            for group in groups:
                for batch in islice(parquet.iter_batches(-(-rows // len(groups)), [group]), 1):
                    writer.write_batch(batch)
                    positions.append(sum(sizes[:group]))
                    lines.append(lines[-1] + batch.num_rows)
    return replace(file, read=source.fetched, lines=tuple(lines[:-1]), positions=tuple(positions))


def _sample_beginning(file: SampledFile, rows: int) -> SampledFile:
    """Compressed, since a file without compression would be taken as damaged by a name that ends with `.gz`."""
    stop = min(file.entry.size, max(HEAD, rows * file.entry.size // file.rows))
    beginning, count = file.path.with_name(f"beginning-{file.path.name}"), 0
    with beginning.open("wb") as target:
        target.writelines(file.store.read(file.entry, 0, stop))
    with gzip.open(file.path, "wb", compresslevel=1) as sample:
        for record in _records(beginning, file.is_delimited):
            count += 1
            sample.write(record)
    beginning.unlink()
    return replace(file, rows=count * file.entry.size // stop, read=stop)


def _sample_blocks(file: SampledFile, rows: int, threads: int) -> SampledFile:
    size, total = -(-BLOCK_ROWS * file.entry.size // file.rows), file.entry.size
    count = max(1, round(rows / BLOCK_ROWS))
    if count * size >= total:
        count, size = 1, total
    starts = np.linspace(0, total - size, count).astype(int).tolist()
    lines, positions, row_ends = [1], [], 0
    with file.path.open("wb") as sample:
        for first in range(0, count, BLOCKS_AT_ONCE):
            some = starts[first : first + BLOCKS_AT_ONCE]
            blocks = parallel(lambda at: file.read_range(at, at + size), some, threads)
            for start, block in zip(some, blocks, strict=True):
                ends = _record_ends(block, start) if file.is_delimited else _newlines(block)
                begin, content = _whole_records(block, ends, start == 0, start + size == total)
                row_ends += len(ends)
                if content:
                    sample.write(content)
                    positions.append(start + begin)
                    count_lines = len(content.splitlines()) if file.is_delimited else content.count(b"\n")
                    lines.append(lines[-1] + count_lines)
    estimated, read = round(row_ends * total / max(1, count * size)), count * size
    return replace(file, rows=estimated, read=read, lines=tuple(lines[:-1]), positions=tuple(positions), in_bytes=True)


def _whole_records(block: bytes, ends: NDArray[np.int64], is_first: bool, is_last: bool) -> tuple[int, bytes]:
    """The whole records of a block, and where they begin in it. A first line without an end is kept, to be named."""
    if not len(ends):
        return 0, block if is_first else b""
    begin = 0 if is_first else int(ends[0]) + 1
    return begin, block[begin : len(block) if is_last else int(ends[-1]) + 1]


def _newlines(block: bytes) -> NDArray[np.int64]:
    return np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))


def _record_ends(block: bytes, start: int) -> NDArray[np.int64]:
    """The line ends that are not inside a quoted text.

    Where texts are not quoted, each line end is one of a record, so that some can be missed.
    """
    newlines, begins_inside, quote = _newlines(block), False, QUOTE.search(block)
    if start and quote:
        begins_inside = block.count(b'"', 0, quote.start() + 1) % 2 == (quote["closing"] is None)
    quotes = np.cumsum(np.frombuffer(block, np.uint8) == ord('"'))
    is_outside: NDArray[np.bool_] = (quotes[newlines] + begins_inside) % 2 == 0
    return newlines[is_outside]


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
