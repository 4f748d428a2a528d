"""Read rows from data files: JSON Lines, CSV, TSV and Parquet; plain, gzip or zstd."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mnrl_job.data.file_formats.common import WHOLE, Row, Span
from mnrl_job.data.file_formats.delimited import delimited_rows
from mnrl_job.data.file_formats.json_lines import json_rows, split_lines
from mnrl_job.data.file_formats.opening import COMPRESSED, READ_ERRORS, is_compressed
from mnrl_job.data.file_formats.parquet import parquet_columns, parquet_rows, split_row_groups
from mnrl_job.errors import DataError, NotFound, first_line
from mnrl_job.system.heartbeat import heartbeat

JSON_LINES = (".jsonl", ".ndjson", ".json")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
ROWS_PER_BEAT = 10_000
# A second's work.
SPAN_BYTES = 16 << 20
FORMATS = ".jsonl, .ndjson, .json, .csv, .tsv (plain, .gz or .zst) or .parquet"
# Remedies for other common formats.
REMEDIES = {
    "save the sheet as CSV UTF-8": (".xlsx", ".xlsm", ".xls", ".ods", ".numbers"),
    "rename it to .csv, .tsv or .jsonl, by its content": (".txt", ".tab", ".dat", ".data", ""),
    "write the table as .parquet or .jsonl": (".pkl", ".pickle", ".feather", ".arrow", ".orc", ".avro", ".npy"),
    "decompress it, or use .gz or .zst": (".bz2", ".xz", ".zip", ".7z", ".rar", ".lz4", ".snappy", ".tar", ".tgz"),
}


def split_file(path: Path) -> list[Span]:
    """Spans that can be read at the same time: of JSON Lines and Parquet, unless the file is compressed.

    Raises:
        DataError: the file is damaged.
        NotFound: the file cannot be opened.
    """
    suffix = format_suffix(path)
    with translate_read_errors(path):
        if path.stat().st_size < 2 * SPAN_BYTES:
            return [WHOLE]
        if suffix == PARQUET:
            return split_row_groups(path, SPAN_BYTES)
        return split_lines(path, SPAN_BYTES) if suffix in JSON_LINES and not is_compressed(path) else [WHOLE]


def read_rows(path: Path, columns: Collection[str] | None = None, span: Span = WHOLE) -> Iterator[Row]:
    """Yield (line, row) for each row of a span; `line` counts from 1, and for Parquet counts rows.

    A row that cannot be parsed is yielded as a `BadRow`. Blank lines are skipped. The path's suffixes determine the
    format. Of Parquet only the given columns are read; rows of text formats have all columns.

    Raises:
        DataError: the format is unknown, or the file is damaged.
        NotFound: the file cannot be opened.
    """
    with translate_read_errors(path):
        for count, row in enumerate(_rows(path, columns, span), 1):
            if count % ROWS_PER_BEAT == 0:
                heartbeat()
            yield row


def _rows(path: Path, columns: Collection[str] | None, span: Span) -> Iterator[Row]:
    suffix = format_suffix(path)
    if suffix in JSON_LINES:
        return json_rows(path, span)
    if suffix in SEPARATORS:
        return delimited_rows(path, SEPARATORS[suffix])
    if suffix == PARQUET:
        return parquet_rows(path, columns, span)
    raise DataError(f"{path}: unknown format {suffix or '(no suffix)'}; expected {FORMATS}; {_remedy(suffix)}")


def declared_columns(path: Path) -> dict[str, bool] | None:
    """The columns of a file's schema, and whether each holds lists; None for formats without a schema.

    Raises:
        DataError: the file is damaged.
        NotFound: the file cannot be opened.
    """
    if format_suffix(path) != PARQUET:
        return None
    with translate_read_errors(path):
        return parquet_columns(path)


def _remedy(suffix: str) -> str:
    default = "exclude it with a glob such as folder/*.jsonl"
    return next((remedy for remedy, suffixes in REMEDIES.items() if suffix in suffixes), default)


def format_suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSED:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


@contextmanager
def translate_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise NotFound(f"{path}: cannot be opened: {error.strerror}") from error
    except READ_ERRORS as error:
        reason = first_line(error).removesuffix(".")
        raise DataError(f"{path}: the file is damaged or does not match its suffix: {reason}") from error
