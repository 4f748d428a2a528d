"""How a file of separated values is written: what separates its columns, and whether its texts are quoted."""

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
# What Excel writes before the header.
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[\r\n]*')
QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True, slots=True)
class Dialect:
    """`skipped` lines come before the header. Where texts are not `quoted`, quotation marks are part of them."""

    separator: str
    quoted: bool
    skipped: int

    def reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """The fields of each record.

        Raises:
            csv.Error: while it is read, where a quotation mark is neither part of a text nor around it.
        """
        if not self.quoted:
            return csv.reader(lines, delimiter=self.separator, quoting=csv.QUOTE_NONE)
        return csv.reader(lines, delimiter=self.separator, strict=True)


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a file as text, line ends as they are; bytes that are no UTF-8 become halves of characters."""
    with open_bytes(path) as handle:
        yield io.TextIOWrapper(handle, encoding="utf-8-sig", errors="surrogateescape", newline="")


def find_dialect(path: Path, usual: str) -> Dialect:
    """Find how a file is written.

    The header tells the separator: where the `usual` one of the suffix gives a single column, it is another one.
    Values separated by tabs come quoted from spreadsheets and not quoted from most others, which the whole file tells.

    Raises:
        DataError: it may be read both ways, with different rows.
    """
    with open_text(path) as text:
        first = text.readline()
        named = SEPARATOR_LINE.fullmatch(first)
        header = text.readline() if named else first
        separator = named[1] if named else _separator(header, usual)
        skipped = 1 if named else 0
        may_be_plain = separator == "\t" and '"' not in header and _marks_open_texts(path)
        if not may_be_plain or not _stands_unquoted(text, header.count("\t") + 1):
            return Dialect(separator, quoted=True, skipped=skipped)
    _refuse_ambiguous(path, skipped)
    return Dialect(separator, quoted=False, skipped=skipped)


def _separator(header: str, usual: str) -> str:
    if _columns(header, usual) != 1:
        return usual
    return max((usual, *SEPARATORS), key=lambda separator: _columns(header, separator))


def _columns(header: str, separator: str) -> int:
    """How many columns there are, 1 where quotation marks do not fit to the separator."""
    try:
        return len(next(csv.reader([header], delimiter=separator, strict=True), ""))
    except csv.Error:
        return 1


def _marks_open_texts(path: Path) -> bool:
    """Whether a quotation mark stands at the beginning of any text; a look at the bytes is quick."""
    before = b"\n"
    with open_bytes(path) as handle:
        while chunk := handle.read(CHUNK):
            piece = before + chunk
            if any(opening in piece for opening in (b'\t"', b'\n"', b'\r"')):
                return True
            before = chunk[-1:]
    return False


def _stands_unquoted(lines: Iterable[str], fields: int) -> bool:
    """Whether all lines are rows, some quotation mark opens a text without closing it, and none is doubled."""
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
    """Two rows with a quotation mark each, one at its beginning and one at its end, look like a text of two lines."""
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
