"""CSV and TSV: a header, then a record per row, which may span several lines."""

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mnrl_job.data.file_formats.common import BadRow, Row, check_names, is_unicode
from mnrl_job.data.file_formats.dialect import Dialect, find_dialect, open_text
from mnrl_job.data.file_formats.quotes import QUOTE_RULE, MergedRowsDetector, strip_padded_quotes
from mnrl_job.errors import DataError

# Concatenated files may have a byte order mark before each header.
AROUND_NAMES = '\ufeff "'


def delimited_rows(path: Path, usual_separator: str) -> Iterator[Row]:
    """Yield each row with the number of the line where its record begins.

    Raises:
        DataError: quotation marks are ambiguous, column names are repeated, or a later header has another order.
    """
    csv.field_size_limit(sys.maxsize)
    dialect = find_dialect(path, usual_separator)
    with open_text(path) as text:
        records = _records(path, text, dialect)
        line, names, raw = next(records, (1, [], []))
        names = strip_padded_quotes(names, raw, dialect.separator, len(names))
        check_names(names, f"{path}:{line}")
        header = _Header(tuple(names), _folded(names))
        merged_rows = MergedRowsDetector(path, dialect.separator, len(names))
        for line, values, raw in records:
            if dialect.quoted and '"' in raw[0]:
                values = strip_padded_quotes(values, raw, dialect.separator, len(names))
                merged_rows.update(line, len(values), raw)
            yield line, header.row(f"{path}:{line}", values)
        merged_rows.check()


def _records(path: Path, text: Iterator[str], dialect: Dialect) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield first line number, fields and raw lines of each record that is not blank, beginning with the header."""
    line = 1 + sum(1 for _ in islice(text, dialect.skipped))
    raw: list[str] = []
    try:
        for values in dialect.reader(_tee(text, raw)):
            if values:
                yield line, values, raw
            line += len(raw)
            raw.clear()
    except csv.Error as error:
        # The rows that follow cannot be separated, so the file as a whole is refused.
        raise DataError(f"{path}:{line}: malformed: {error}; {QUOTE_RULE}") from error


def _tee(lines: Iterable[str], copy: list[str]) -> Iterator[str]:
    for line in lines:
        copy.append(line)
        yield line


@dataclass(frozen=True, slots=True)
class _Header:
    names: tuple[str, ...]
    folded: list[str]

    def row(self, where: str, values: list[str]) -> dict[str, Any] | BadRow:
        if len(values) != len(self.names):
            return BadRow(where, "wrong number of fields", f"{len(values)} fields, the header has {len(self.names)}")
        if values[0].strip(AROUND_NAMES).casefold() in self.folded and self._is_repeated(where, values):
            return BadRow(where, "repeated header", "the files were concatenated with their headers")
        if not all(map(is_unicode, values)):
            return BadRow(where, "not UTF-8", "invalid UTF-8")
        return dict(zip(self.names, values, strict=True))

    def _is_repeated(self, where: str, values: list[str]) -> bool:
        folded = _folded(values)
        if sorted(folded) != sorted(self.folded):
            return False
        if folded != self.folded:
            raise DataError(f"{where}: a second header with the columns in another order; pass the files separately")
        return True


def _folded(names: Iterable[str]) -> list[str]:
    return [name.strip(AROUND_NAMES).casefold() for name in names]
