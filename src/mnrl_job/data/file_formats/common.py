"""What all file formats share: rows, column names and the check for valid Unicode."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mnrl_job.errors import DataError


@dataclass(frozen=True, slots=True)
class BadRow:
    """An unusable row: `where` is `file:line`."""

    where: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of a file: so many lines from a byte on, or so many row groups from one on.

    `first` is the number of the first line or row. None counts all to the end.
    """

    start: int = 0
    first: int = 1
    count: int | None = None


WHOLE = Span()

Row = tuple[int, dict[str, Any] | BadRow]


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded as UTF-8: JSON escapes and invalid bytes can give unpaired surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse duplicate column names and those that are not UTF-8; NULs are a sign of UTF-16.

    Raises:
        DataError: naming the first such name.
    """
    for name in names:
        if not is_unicode(name) or "\0" in name:
            shown = name.encode(errors="surrogateescape")
            raise DataError(f"{where}: the column name {shown!r} is not UTF-8; save the file as UTF-8")
    if len(set(names)) < len(names):
        raise DataError(f"{where}: two columns share a name; found {', '.join(names)}")
