"""Quotation marks in delimited files: quoted texts after a space, and unclosed quotes that merge several rows."""

import csv
from dataclasses import dataclass
from pathlib import Path

from mnrl_job.errors import DataError

QUOTE_RULE = "quote texts that contain quotation marks, and double the marks inside, as spreadsheets do"


def strip_padded_quotes(values: list[str], raw: list[str], separator: str, columns: int) -> list[str]:
    """The fields, with quotation marks removed from texts that follow a space, as in `a, "b"`.

    If the lines of the record, `raw`, then have another number of fields than expected, `values` are returned.
    """
    if not any(text.startswith(" ") and text.lstrip(" ").startswith('"') for text in values):
        return values
    try:
        records = list(csv.reader(raw, delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error:
        return values
    stripped = [[text.strip() for text in texts] for texts in (values, records[0])]
    return values if len(records) > 1 or len(records[0]) != columns or stripped[0] == stripped[1] else records[0]


@dataclass(slots=True)
class MergedRowsDetector:
    """Detects records that may be several rows, of which one begins and a later one ends with a quotation mark.

    Such a record is accepted if other records of the file are certainly quoted.
    """

    path: Path
    separator: str
    columns: int
    suspect_line: int = 0
    is_quoted: bool = False

    def update(self, line: int, fields: int, raw: list[str]) -> None:
        """Inspect a record with quotation marks: its first line number, number of fields, and lines."""
        if self.is_quoted:
            return
        rows = sum(map(self._is_row, raw)) if len(raw) > 1 else 0
        if rows > 1 and 2 * rows > sum(1 for text in raw if text.strip()):
            self.suspect_line = self.suspect_line or line
        elif fields == self.columns:
            self.is_quoted = len(raw) > 1 or '""' in raw[0] or raw[0].count(self.separator) >= fields

    def check(self) -> None:
        """Check the whole file, at its end.

        Raises:
            DataError: a record may be several rows.
        """
        if self.suspect_line and not self.is_quoted:
            raise DataError(
                f"{self.path}:{self.suspect_line}: a quotation mark opened here is closed on a later line, but the "
                f"lines between look like complete rows; {QUOTE_RULE}"
            )

    def _is_row(self, line: str) -> bool:
        """Whether a line by itself is a row. In running text a comma or semicolon is followed by a space."""
        texts = line.rstrip("\r\n").split(self.separator)
        in_text = self.separator != "\t" and any(text.startswith(" ") for text in texts[1:])
        return len(texts) == self.columns and all(map(str.strip, texts)) and not in_text
