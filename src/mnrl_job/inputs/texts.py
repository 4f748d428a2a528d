"""From a row to the texts that are trained on."""

from itertools import chain
from typing import Any

from mnrl_job.inputs.blanks import is_blank
from mnrl_job.inputs.columns import Columns
from mnrl_job.inputs.formats.common import is_unicode
from mnrl_job.records import BadRow

Texts = tuple[str, ...]
# What one line of a file gives: rows of anchor, positive and negatives, or why there are none.
Line = tuple[Texts, ...] | BadRow


def row_texts(row: dict[str, Any], columns: Columns, where: str) -> Line:
    """Each positive of a row with its anchor and all its negatives. One flaw makes the whole row unusable."""
    cells: list[Texts] = []
    for name in columns.names():
        cell = _cell(row, name, columns, where)
        if isinstance(cell, BadRow):
            return cell
        cells.append(cell)
    (anchor,), positives, *negatives = cells
    return tuple((anchor, positive, *chain.from_iterable(negatives)) for positive in positives)


def usable(value: object, name: str, where: str) -> str | BadRow:
    """A text without the blanks around it, or why it is none."""
    if value is None:
        return BadRow(where, "null", name)
    if not isinstance(value, str):
        return BadRow(where, "not text", f"{name} is of type {type(value).__name__}")
    if is_blank(value):
        return BadRow(where, "empty", name)
    if not is_unicode(value):
        return BadRow(where, "not UTF-8", f"{name} holds half a character")
    return value.strip()


def _cell(row: dict[str, Any], name: str, columns: Columns, where: str) -> Texts | BadRow:
    value = row.get(name)
    listed = name in columns.lists
    if listed and value is None and name != columns.positive:
        return ()
    if name not in row:
        return BadRow(where, "missing column", name)
    if not (listed and isinstance(value, list)):
        text = usable(value, name, where)
        return text if isinstance(text, BadRow) else (text,)
    if not value and name == columns.positive:
        return BadRow(where, "empty", f"{name} is an empty list")
    texts: list[str] = []
    for index, member in enumerate(value):
        text = usable(member, f"{name}[{index}]", where)
        if isinstance(text, BadRow):
            return text
        texts.append(text)
    return tuple(texts)
