"""CSV, TSV and their like: a header, then a record for each row, which may stand on several lines."""

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mnrl_job.data.file_formats.common import BadRow, Row, check_names, is_unicode
from mnrl_job.data.file_formats.dialect import Dialect, find_dialect, open_text
from mnrl_job.data.file_formats.quotes import QUOTE_RULE, SwallowedRows, without_blanks
from mnrl_job.errors import DataError

# A header in the middle of a file may have a byte order mark of its own.
AROUND_NAMES = '\ufeff "'


def separated_rows(path: Path, usual_separator: str) -> Iterator[Row]:
    """Yield the row of each record, at the line where it begins.

    Raises:
        DataError: what stands between quotation marks cannot be told, or columns share a name or change their order.
    """
    csv.field_size_limit(sys.maxsize)
    dialect = find_dialect(path, usual_separator)
    with open_text(path) as text:
        records = _records(path, text, dialect)
        line, names, raw = next(records, (1, [], []))
        names = without_blanks(names, raw, dialect.separator, len(names))
        check_names(names, f"{path}:{line}")
        header = _Header(tuple(names), _folded(names))
        swallowed = SwallowedRows(path, dialect.separator, len(names))
        for line, values, raw in records:
            if dialect.quoted and '"' in raw[0]:
                values = without_blanks(values, raw, dialect.separator, len(names))
                swallowed.look(line, len(values), raw)
            yield line, header.row(f"{path}:{line}", values)
        swallowed.check()


def _records(path: Path, text: Iterator[str], dialect: Dialect) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield first line, fields and lines of each record that is not blank, that of the header first."""
    line = 1 + sum(1 for _ in islice(text, dialect.skipped))
    raw: list[str] = []
    try:
        for values in dialect.reader(_noted(text, raw)):
            if values:
                yield line, values, raw
            line += len(raw)
            raw.clear()
    except csv.Error as error:
        # What follows cannot be told apart into rows, so the file as a whole is refused.
        raise DataError(f"{path}:{line}: malformed: {error}; {QUOTE_RULE}") from error


def _noted(lines: Iterable[str], notes: list[str]) -> Iterator[str]:
    for line in lines:
        notes.append(line)
        yield line


@dataclass(frozen=True, slots=True)
class _Header:
    """The names of the columns, and as they are compared."""

    names: tuple[str, ...]
    folded: list[str]

    def row(self, where: str, values: list[str]) -> dict[str, Any] | BadRow:
        if len(values) != len(self.names):
            return BadRow(where, "wrong number of fields", f"{len(values)} fields, the header has {len(self.names)}")
        if values[0].strip(AROUND_NAMES).casefold() in self.folded and self._stands_again(where, values):
            return BadRow(where, "repeated header", "the files were concatenated with their headers")
        if not all(map(is_unicode, values)):
            return BadRow(where, "not UTF-8", "invalid UTF-8")
        return dict(zip(self.names, values, strict=True))

    def _stands_again(self, where: str, values: list[str]) -> bool:
        again = _folded(values)
        if sorted(again) != sorted(self.folded):
            return False
        if again != self.folded:
            raise DataError(f"{where}: a second header with the columns in another order; pass the files separately")
        return True


def _folded(names: Iterable[str]) -> list[str]:
    return [name.strip(AROUND_NAMES).casefold() for name in names]
