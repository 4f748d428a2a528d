"""JSON Lines: one object per line, without duplicate keys."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mnrl_job.data.file_formats.common import WHOLE, BadRow, Row, Span, is_unicode
from mnrl_job.data.file_formats.opening import open_bytes
from mnrl_job.errors import DataError
from mnrl_job.system.heartbeat import heartbeat

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def split_lines(path: Path, size: int) -> list[Span]:
    """Spans of at least `size` bytes, as far as possible, that end at line ends. The file is not compressed."""
    spans: list[Span] = []
    start, first = 0, 1
    with path.open("rb") as file:
        while block := file.read(size):
            block += file.readline()
            count = block.count(b"\n") + (not block.endswith(b"\n"))
            spans.append(Span(start, first, count))
            start, first = start + len(block), first + count
            heartbeat()
    return spans


def json_rows(path: Path, span: Span = WHOLE) -> Iterator[Row]:
    """Yield the object of each line, or why it is unusable.

    Raises:
        DataError: the file is a JSON array, or its objects span several lines.
    """
    with open_bytes(path) as handle:
        if span.start:
            handle.seek(span.start)
        lines = _lines(islice(handle, span.count), span.first)
        head = list(islice(lines, 2))
        if not span.start:
            _check_layout(path, head)
        for line, text in chain(head, lines):
            yield line, _row(f"{path}:{line}", text)


def _lines(handle: Iterable[bytes], first: int) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank. Concatenated files may have several byte order marks."""
    for line, raw in enumerate(handle, start=first):
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
