"""Detect the dialect of a delimited file: its separator, and whether its texts are quoted."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from mnrl_job.data.file_formats.opening import open_bytes
from mnrl_job.data.file_formats.quotes import QUOTE_RULE
from mnrl_job.errors import DataError

CHUNK = 1 << 20
SEPARATORS = (";", "\t", ",", "|")
# Excel writes this line before the header.
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[\r\n]*')
QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True, slots=True)
class Dialect:
    """`skipped` lines precede the header. If not `quoted`, quotation marks are part of the texts."""

    separator: str
    quoted: bool
    skipped: int

    def reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """The fields of each record.

        Raises:
            csv.Error: while reading, at a misplaced quotation mark.
        """
        if not self.quoted:
            return csv.reader(lines, delimiter=self.separator, quoting=csv.QUOTE_NONE)
        return csv.reader(lines, delimiter=self.separator, strict=True)


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a file as text with its line ends; invalid UTF-8 becomes unpaired surrogates."""
    with open_bytes(path) as handle:
        yield io.TextIOWrapper(handle, encoding="utf-8-sig", errors="surrogateescape", newline="")


def find_dialect(path: Path, default: str) -> Dialect:
    """Detect the dialect of a file.

    The header determines the separator: the `default` of the suffix, unless that gives a single column. Tab-separated
    files are quoted by spreadsheets but not by most other programs; the whole file shows which.

    Raises:
        DataError: it can be read both ways, with different rows.
    """
    with open_text(path) as text:
        first = text.readline()
        declared = SEPARATOR_LINE.fullmatch(first)
        header = text.readline() if declared else first
        separator = declared[1] if declared else _detect_separator(header, default)
        skipped = 1 if declared else 0
        may_be_unquoted = separator == "\t" and '"' not in header and _has_opening_quotes(path)
        if not may_be_unquoted or not _is_unquoted(text, header.count("\t") + 1):
            return Dialect(separator, quoted=True, skipped=skipped)
    _refuse_ambiguous(path, skipped)
    return Dialect(separator, quoted=False, skipped=skipped)


def _detect_separator(header: str, default: str) -> str:
    if _count_columns(header, default) != 1:
        return default
    return max((default, *SEPARATORS), key=lambda separator: _count_columns(header, separator))


def _count_columns(header: str, separator: str) -> int:
    """1 if quotation marks do not match the separator."""
    try:
        return len(next(csv.reader([header], delimiter=separator, strict=True), ""))
    except csv.Error:
        return 1


def _has_opening_quotes(path: Path) -> bool:
    """Whether any text begins with a quotation mark. Searching the bytes is fast."""
    before = b"\n"
    with open_bytes(path) as handle:
        while chunk := handle.read(CHUNK):
            searched = before + chunk
            if any(opening in searched for opening in (b'\t"', b'\n"', b'\r"')):
                return True
            before = chunk[-1:]
    return False


def _is_unquoted(lines: Iterable[str], fields: int) -> bool:
    """Whether all lines are rows, some text begins with a quotation mark that is not closed, and none is doubled."""
    opened = False
    for raw in lines:
        line = raw.rstrip("\r\n")
        if line and line.count("\t") + 1 != fields:
            return False
        if '"' in line:
            for text in line.split("\t"):
                if not text.strip('" ') or (QUOTED.fullmatch(text) and '""' in text):
                    return False
                opened |= text.startswith('"') and not QUOTED.fullmatch(text)
    return opened


def _refuse_ambiguous(path: Path, skipped: int) -> None:
    """Refuse two lines that begin and end with a quotation mark: either two rows, or one row with a line break."""
    with open_text(path) as text:
        reader = csv.reader(islice(text, skipped, None), delimiter="\t", strict=True)
        try:
            starts = [0, *(reader.line_num for _ in reader)]
        except csv.Error:
            return
    spans = [after - before for before, after in pairwise(starts)]
    if max(spans) == 2:
        line = skipped + starts[spans.index(2)] + 1
        raise DataError(f"{path}:{line}: ambiguous: two rows, or one row with a text of two lines; {QUOTE_RULE}")
