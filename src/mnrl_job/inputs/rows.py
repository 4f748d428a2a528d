"""From a data file to rows with their line numbers: JSON Lines, CSV, TSV, Parquet; plain, gzip or zstd."""

import csv
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from mnrl_job.errors import DataError, MissingError
from mnrl_job.records import BadRow

JSON_LINES = (".jsonl", ".ndjson", ".json")
SEPARATED = {".csv": ",", ".tsv": "\t"}
COMPRESSED = (".gz", ".zst")
FORMATS = ".jsonl, .ndjson, .json, .csv, .tsv (plain, .gz or .zst) or .parquet"

# What reading a damaged file raises. The last two: a Parquet file's text or date that Python cannot hold.
DAMAGE = (EOFError, OSError, zlib.error, pa.ArrowException, UnicodeDecodeError, OverflowError)

Row = tuple[int, dict[str, Any] | BadRow]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield (line, row) for each row of a file; `line` counts from 1, and for Parquet counts rows.

    A row that cannot be parsed is yielded as a `BadRow`. Blank lines are skipped.

    Raises:
        DataError: the file is of an unknown format or damaged as a whole.
        MissingError: the file cannot be opened.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in COMPRESSED else suffixes[-1] if suffixes else ""
    try:
        if kind in JSON_LINES:
            yield from _json_lines(path)
        elif kind in SEPARATED:
            yield from _separated(path, SEPARATED[kind])
        elif kind == ".parquet":
            yield from _parquet(path)
        else:
            raise DataError(
                f"{path}: unknown format {kind or 'without a suffix'}; expected {FORMATS}; "
                "a glob such as folder/*.jsonl leaves other files out"
            )
    except (FileNotFoundError, PermissionError) as error:
        raise MissingError(f"{path}: cannot be opened: {error.strerror}") from error
    except DAMAGE as error:
        raise DataError(f"{path}: the file is damaged or not what its name says: {error}") from error


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8. JSON's escapes and broken bytes can smuggle in halves of characters."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, decompressing by its suffix. Opening and reading raise `DAMAGE`."""
    compression = path.suffix.lower()
    with path.open("rb") as raw:
        if compression in COMPRESSED and not os.fstat(raw.fileno()).st_size:
            raise EOFError("an empty file is no archive")
        if compression == ".gz":
            with gzip.open(raw) as unzipped:
                yield cast("IO[bytes]", unzipped)
        elif compression == ".zst":
            yield io.BufferedReader(pa.CompressedInputStream(raw, "zstd"))
        else:
            yield raw


def _json_lines(path: Path) -> Iterator[Row]:
    with open_bytes(path) as handle:
        for line, raw in enumerate(handle, start=1):
            text = raw.removeprefix(b"\xef\xbb\xbf").strip()
            if line == 1 and text.startswith(b"["):
                raise DataError(f"{path}:1: a JSON array; expected JSON Lines, one object a line")
            if text:
                yield line, _json_row(path, line, text)


def _json_row(path: Path, line: int, text: bytes) -> dict[str, Any] | BadRow:
    where = f"{path}:{line}"
    try:
        row = json.loads(text)
    except UnicodeDecodeError as error:
        return BadRow(where, "not UTF-8", str(error.reason))
    except (ValueError, RecursionError) as error:
        return BadRow(where, "malformed JSON", str(error))
    if not isinstance(row, dict):
        return BadRow(where, "malformed JSON", "not an object")
    return row if all(map(is_unicode, row)) else BadRow(where, "not UTF-8", "a key holds half a character")


def _separated(path: Path, separator: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with open_bytes(path) as handle:
        text = io.TextIOWrapper(handle, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, delimiter=separator, strict=True)
        line = 1
        try:
            header = next(reader, None)
            if header is None:
                return
            _check_names(header, f"{path}:1")
            line = reader.line_num + 1
            for values in reader:
                if values:
                    yield line, _separated_row(path, line, header, values)
                line = reader.line_num + 1
        except csv.Error as error:
            # What follows an unclosed quote cannot be told apart into rows, so the file as a whole is refused.
            raise DataError(f"{path}:{line}: cannot be read as separated values: {error}") from error


def _check_names(names: list[str], where: str) -> None:
    """Refuse names that are not told apart, or cannot be written down; NULs are what UTF-16 looks like."""
    for name in names:
        if not is_unicode(name) or "\0" in name:
            told = name.encode(errors="surrogateescape")
            raise DataError(f"{where}: the column name {told!r} is not UTF-8; save the file as UTF-8")
    if len(set(names)) < len(names):
        raise DataError(f"{where}: two columns share a name; found {', '.join(names)}")


def _separated_row(path: Path, line: int, header: list[str], values: list[str]) -> dict[str, Any] | BadRow:
    where = f"{path}:{line}"
    if len(values) != len(header):
        return BadRow(where, "wrong number of fields", f"{len(values)} fields, the header has {len(header)}")
    if not all(is_unicode(value) for value in values):
        return BadRow(where, "not UTF-8", "bytes that are no UTF-8 text")
    return dict(zip(header, values, strict=True))


def _parquet(path: Path) -> Iterator[Row]:
    line = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        _check_names(file.schema_arrow.names, str(path))
        for batch in file.iter_batches(batch_size=10_000):
            for row in batch.to_pylist():
                line += 1
                yield line, row
        if line != file.metadata.num_rows:
            raise EOFError(f"it holds {line} rows of {file.metadata.num_rows}")
