"""Extract the texts of a row."""

from itertools import chain
from typing import Any

from mnrl_job.data.blanks import is_blank
from mnrl_job.data.columns import Columns
from mnrl_job.data.file_formats.common import BadRow, is_unicode
from mnrl_job.data.stringified_lists import parse_list

# An anchor, a positive and any negatives.
Texts = tuple[str, ...]
# The pairs of a row of a file, or why it is unusable; None if `MNRL_ROW_FILTER` excludes it.
ParsedRow = tuple[Texts, ...] | BadRow | None


def extract_pairs(row: dict[str, Any], columns: Columns, where: str) -> tuple[Texts, ...] | BadRow:
    """Each positive of a row with its anchor and all its negatives. One unusable text makes the row unusable."""
    name = columns.anchor
    anchor = clean_text(row[name], name, where) if name in row else _missing_column(row, name, where)
    if isinstance(anchor, BadRow):
        return anchor
    positives = _extract_texts(row, columns.positive, columns, where)
    if isinstance(positives, BadRow):
        return positives
    if not positives:
        return BadRow(where, "empty", f"{columns.positive} is an empty list")
    negatives: list[Texts] = []
    for name in columns.negatives:
        texts = () if is_empty(row.get(name)) else _extract_texts(row, name, columns, where)
        if isinstance(texts, BadRow):
            return texts
        negatives.append(texts)
    return tuple((anchor, positive, *chain.from_iterable(negatives)) for positive in positives)


def clean_text(value: object, name: str, where: str) -> str | BadRow:
    """A text without surrounding whitespace, or why it is unusable."""
    if value is None:
        return BadRow(where, "null", name)
    if not isinstance(value, str):
        return BadRow(where, "not text", f"{name} is of type {type(value).__name__}")
    if is_blank(value):
        return BadRow(where, "empty", name)
    if not is_unicode(value):
        return BadRow(where, "not UTF-8", f"{name} contains an unpaired surrogate")
    return value.strip()


def type_name(value: object) -> str:
    """The type of a value in a JSON file: Python's name, except for null."""
    return "null" if value is None else type(value).__name__


def is_empty(value: object) -> bool:
    """Whether a cell has no value: null, a blank text or an empty list."""
    return value is None or value == [] or (isinstance(value, str) and is_blank(value))


def _extract_texts(row: dict[str, Any], name: str, columns: Columns, where: str) -> Texts | BadRow:
    """The texts of a cell, which holds one text or a list of texts."""
    if name not in row:
        return _missing_column(row, name, where)
    value = row[name]
    if name in columns.stringified and isinstance(value, str) and not is_blank(value):
        value = parse_list(value)
        if value is None:
            return BadRow(where, "not a list", f"{name} is not a list of texts, unlike in other rows")
    if not isinstance(value, list):
        text = clean_text(value, name, where)
        return text if isinstance(text, BadRow) else (text,)
    texts: list[str] = []
    for index, member in enumerate(value):
        text = clean_text(member, f"{name}[{index}]", where)
        if isinstance(text, BadRow):
            return text
        texts.append(text)
    return tuple(texts)


def _missing_column(row: dict[str, Any], name: str, where: str) -> BadRow:
    return BadRow(where, "missing column", f"{name}; the row has {', '.join(row) or 'none'}")
