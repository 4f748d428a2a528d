"""From a data file to rows with their line numbers: JSON Lines, CSV, TSV, Parquet; plain, gzip or zstd."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mnrl_job.data.file_formats.common import Row
from mnrl_job.data.file_formats.delimited import separated_rows
from mnrl_job.data.file_formats.json_lines import json_rows
from mnrl_job.data.file_formats.opening import COMPRESSED, READ_ERRORS
from mnrl_job.data.file_formats.parquet import parquet_columns, parquet_rows
from mnrl_job.errors import DataError, NotFound, first_line
from mnrl_job.system.heartbeat import heartbeat

JSON_LINES = (".jsonl", ".ndjson", ".json")
SEPARATED = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
ROWS_PER_BEAT = 10_000
FORMATS = ".jsonl, .ndjson, .json, .csv, .tsv (plain, .gz or .zst) or .parquet"
# What to do about the formats that data is often kept in.
REMEDIES = {
    "save the sheet as CSV UTF-8": (".xlsx", ".xlsm", ".xls", ".ods", ".numbers"),
    "rename it to .csv, .tsv or .jsonl, by its content": (".txt", ".tab", ".dat", ".data", ""),
    "write the table as .parquet or .jsonl": (".pkl", ".pickle", ".feather", ".arrow", ".orc", ".avro", ".npy"),
    "decompress it, or use .gz or .zst": (
        ".bz2",
        ".xz",
        ".zip",
        ".7z",
        ".rar",
        ".lz4",
        ".snappy",
        ".tar",
        ".tgz",
    ),
}


def read_rows(path: Path, columns: Collection[str] | None = None) -> Iterator[Row]:
    """Yield (line, row) for each row of a file; `line` counts from 1, and for Parquet counts rows.

    A row that cannot be parsed is yielded as a `BadRow`. Blank lines are skipped.

    Args:
        path: of the file; its suffixes tell the format.
        columns: those that are used. Parquet reads no others; a row of the text formats holds all it has.

    Raises:
        DataError: the file is of an unknown format or damaged as a whole.
        NotFound: the file cannot be opened.
    """
    with _reading(path):
        for count, row in enumerate(_rows(path, columns), 1):
            if count % ROWS_PER_BEAT == 0:
                heartbeat()
            yield row


def _rows(path: Path, columns: Collection[str] | None) -> Iterator[Row]:
    kind = _kind(path)
    if kind in JSON_LINES:
        return json_rows(path)
    if kind in SEPARATED:
        return separated_rows(path, SEPARATED[kind])
    if kind == PARQUET:
        return parquet_rows(path, columns)
    raise DataError(f"{path}: unknown format {kind or '(no suffix)'}; expected {FORMATS}; {_remedy(kind)}")


def declared_columns(path: Path) -> dict[str, bool] | None:
    """The columns that a file's schema names, and whether each holds lists; None where only its rows know.

    Raises:
        DataError: the file is damaged as a whole.
        NotFound: the file cannot be opened.
    """
    if _kind(path) != PARQUET:
        return None
    with _reading(path):
        return parquet_columns(path)


def _remedy(kind: str) -> str:
    others = "exclude it with a glob such as folder/*.jsonl"
    return next((remedy for remedy, kinds in REMEDIES.items() if kind in kinds), others)


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
        raise NotFound(f"{path}: cannot be opened: {error.strerror}") from error
    except READ_ERRORS as error:
        reason = first_line(error).removesuffix(".")
        raise DataError(f"{path}: the file is damaged or does not match its suffix: {reason}") from error
