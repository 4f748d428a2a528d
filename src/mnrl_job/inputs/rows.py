"""From a data file to rows with their line numbers: JSON Lines, CSV, TSV, Parquet; plain, gzip or zstd."""

import csv
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from mnrl_job.errors import DataError, MissingError
from mnrl_job.inputs.formats.common import Row, check_names, is_unicode
from mnrl_job.inputs.formats.parquet import parquet_columns, parquet_rows
from mnrl_job.records import BadRow

JSON_LINES = (".jsonl", ".ndjson", ".json")
SEPARATED = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
COMPRESSED = (".gz", ".zst")
FORMATS = ".jsonl, .ndjson, .json, .csv, .tsv (plain, .gz or .zst) or .parquet"

# What reading a damaged file raises. The last two: a Parquet file's text or date that Python cannot hold.
DAMAGE = (EOFError, OSError, zlib.error, pa.ArrowException, UnicodeDecodeError, OverflowError)


def read_rows(path: Path, columns: Collection[str] | None = None) -> Iterator[Row]:
    """Yield (line, row) for each row of a file; `line` counts from 1, and for Parquet counts rows.

    A row that cannot be parsed is yielded as a `BadRow`. Blank lines are skipped.

    Args:
        path: of the file; its suffixes tell the format.
        columns: those that are used. Parquet reads no others; a row of the text formats holds all it has.

    Raises:
        DataError: the file is of an unknown format or damaged as a whole.
        MissingError: the file cannot be opened.
    """
    kind = _kind(path)
    with _reading(path):
        if kind in JSON_LINES:
            yield from _json_lines(path)
        elif kind in SEPARATED:
            yield from _separated(path, SEPARATED[kind])
        elif kind == PARQUET:
            yield from parquet_rows(path, columns)
        else:
            raise DataError(
                f"{path}: unknown format {kind or 'without a suffix'}; expected {FORMATS}; "
                "a glob such as folder/*.jsonl leaves other files out"
            )


def declared_columns(path: Path) -> dict[str, bool] | None:
    """The columns that a file's schema names, and whether each holds lists; None where only its rows know.

    Raises:
        DataError: the file is damaged as a whole.
        MissingError: the file cannot be opened.
    """
    if _kind(path) != PARQUET:
        return None
    with _reading(path):
        return parquet_columns(path)


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSED:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise MissingError(f"{path}: cannot be opened: {error.strerror}") from error
    except DAMAGE as error:
        raise DataError(f"{path}: the file is damaged or not what its name says: {error}") from error


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
            check_names(header, f"{path}:1")
            line = reader.line_num + 1
            for values in reader:
                if values:
                    yield line, _separated_row(path, line, header, values)
                line = reader.line_num + 1
        except csv.Error as error:
            # What follows an unclosed quote cannot be told apart into rows, so the file as a whole is refused.
            raise DataError(f"{path}:{line}: cannot be read as separated values: {error}") from error


def _separated_row(path: Path, line: int, header: list[str], values: list[str]) -> dict[str, Any] | BadRow:
    where = f"{path}:{line}"
    if len(values) != len(header):
        return BadRow(where, "wrong number of fields", f"{len(values)} fields, the header has {len(header)}")
    if not all(is_unicode(value) for value in values):
        return BadRow(where, "not UTF-8", "bytes that are no UTF-8 text")
    return dict(zip(header, values, strict=True))
