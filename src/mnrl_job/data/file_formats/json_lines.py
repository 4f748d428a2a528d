"""JSON Lines: one object per line, without duplicate keys."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mnrl_job.data.file_formats.common import BadRow, Row, is_unicode
from mnrl_job.data.file_formats.opening import open_bytes
from mnrl_job.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the object of each line, or why it is unusable.

    Raises:
        DataError: the file is a JSON array, or its objects span several lines.
    """
    with open_bytes(path) as handle:
        lines = _lines(handle)
        head = list(islice(lines, 2))
        _check_layout(path, head)
        for line, text in chain(head, lines):
            yield line, _row(f"{path}:{line}", text)


def _lines(handle: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank. Concatenated files may have several byte order marks."""
    for line, raw in enumerate(handle, start=1):
        if text := raw.removeprefix(BYTE_ORDER_MARK).strip():
            yield line, text


def _check_layout(path: Path, head: list[tuple[int, bytes]]) -> None:
    if not head:
        return
    (line, first), *others = head
    problem = ""
    if first.startswith(b"["):
        problem = "a JSON array; expected JSON Lines, one object per line; convert it with jq -c '.[]'"
    elif others and not others[0][1].startswith(b"{") and _is_truncated(first):
        problem = "a JSON object over several lines; expected JSON Lines, one object per line; convert it with jq -c ."
    if problem:
        raise DataError(f"{path}:{line}: {problem}")


def _is_truncated(text: bytes) -> bool:
    """Whether a line is the beginning of an object that spans several lines."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return text.startswith(b"{") and error.pos >= len(error.doc)
    except (ValueError, RecursionError):
        pass
    return False


def _row(where: str, text: bytes) -> dict[str, Any] | BadRow:
    try:
        row = DECODER.decode(text.decode())
    except UnicodeDecodeError as error:
        return BadRow(where, "not UTF-8", error.reason)
    except DuplicateKey as error:
        return BadRow(where, "duplicate key", str(error))
    except (ValueError, RecursionError) as error:
        return BadRow(where, "malformed JSON", str(error))
    if not isinstance(row, dict):
        return BadRow(where, "malformed JSON", "not an object")
    return row if all(map(is_unicode, row)) else BadRow(where, "not UTF-8", "a key contains an unpaired surrogate")


class DuplicateKey(ValueError):
    """A key occurs twice in one object, so its value is ambiguous."""


def _refuse_duplicate_keys(members: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(members)
    if len(content) < len(members):
        names = [name for name, _ in members]
        raise DuplicateKey(repr(next(name for name in names if names.count(name) > 1)))
    return content


DECODER = json.JSONDecoder(object_pairs_hook=_refuse_duplicate_keys)
