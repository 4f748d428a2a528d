"""Quotation marks of separated values: those with a blank before them, and those that would swallow rows."""

import csv
from dataclasses import dataclass
from pathlib import Path

from mnrl_job.errors import DataError

QUOTE_RULE = "quote texts that contain quotation marks, and double the marks inside, as spreadsheets do"


def without_blanks(values: list[str], raw: list[str], separator: str, columns: int) -> list[str]:
    """The fields without the marks around texts that have blanks before them, as in `a, "b"`.

    Args:
        values: the fields, as they are where such marks are part of a text.
        raw: the lines of the record.
        separator: of the fields.
        columns: how many fields there are to be; otherwise they stay as they are.
    """
    if not any(text.startswith(" ") and text.lstrip(" ").startswith('"') for text in values):
        return values
    try:
        records = list(csv.reader(raw, delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error:
        return values
    plain = [[text.strip() for text in texts] for texts in (values, records[0])]
    return values if len(records) > 1 or len(records[0]) != columns or plain[0] == plain[1] else records[0]


@dataclass(slots=True)
class SwallowedRows:
    """Looks for records that may be several rows: one begins with a quotation mark, a later one ends with one.

    Such a record is not doubted where others of the file are surely quoted.
    """

    path: Path
    separator: str
    columns: int
    doubtful: int = 0
    is_quoted: bool = False

    def look(self, line: int, fields: int, raw: list[str]) -> None:
        """Take note of a record with quotation marks: its first line, how many fields it has, and all its lines."""
        if self.is_quoted:
            return
        rows = sum(map(self._is_row, raw)) if len(raw) > 1 else 0
        if rows > 1 and 2 * rows > sum(1 for text in raw if text.strip()):
            self.doubtful = self.doubtful or line
        elif fields == self.columns:
            self.is_quoted = len(raw) > 1 or '""' in raw[0] or raw[0].count(self.separator) >= fields

    def check(self) -> None:
        """At the end of the file.

        Raises:
            DataError: a record may be several rows.
        """
        if self.doubtful and not self.is_quoted:
            raise DataError(
                f"{self.path}:{self.doubtful}: a quotation mark opened here is closed on a later line, but the lines "
                f"between look like complete rows; {QUOTE_RULE}"
            )

    def _is_row(self, line: str) -> bool:
        """Whether a line by itself has all fields. In a text there is a blank after a comma or a semicolon."""
        texts = line.rstrip("\r\n").split(self.separator)
        in_text = self.separator != "\t" and any(text.startswith(" ") for text in texts[1:])
        return len(texts) == self.columns and all(map(str.strip, texts)) and not in_text
