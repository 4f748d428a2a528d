"""Lists that stand as text in a table: as Python, JSON, numpy or Arrow write them."""

import ast
import json
import re
from typing import Literal

Form = Literal["list", "bytes", "object"]

OPENERS = frozenset("[({ab")
# A list of texts, or one that would be if none was missing.
STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
# numpy writes no commas, so that Python would read its texts as one.
LIST = re.compile(rf"(?:array\()?[\[(]\s*((?:(?:{STRING})[\s,]*)*)[\])](?:,\s*dtype=[^()]*)?\)?", re.DOTALL)
WITH_GAPS = re.compile(rf"\[\s*(?:(?:{STRING}|nan|None|null|<NA>|NaN)[\s,]*)+\]", re.DOTALL)
BYTES = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*\"""", re.DOTALL)


def form_of(text: str) -> Form | None:
    """What a text is, where it is a value as a program writes it."""
    text = text.strip()
    if text[:1] not in OPENERS:
        return None
    if BYTES.fullmatch(text):
        return "bytes"
    if WITH_GAPS.fullmatch(text) or read_list(text) is not None:
        return "list"
    return "object" if _is_object(text) else None


def read_list(text: str) -> list[str] | None:
    """The texts of a list that is written as one text; None where it is no list of texts."""
    text = text.strip()
    read = _json(text)
    if read is not None:
        return read if isinstance(read, list) and all(isinstance(one, str) for one in read) else None
    found = LIST.fullmatch(text)
    if not found or (text[0] == "(" and "," not in text):
        return None
    try:
        return [ast.literal_eval(one) for one in re.findall(STRING, found[1], re.DOTALL)]
    except (ValueError, SyntaxError):
        return None


def _is_object(text: str) -> bool:
    """Whether it is an object, or a list of objects or lists."""
    value = _json(text) if text[-1] in "}]" else None
    if value is None and text[-1] in "}])":
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return False
    members = value if isinstance(value, list | tuple) else [value]
    return bool(members) and all(isinstance(one, dict | list | tuple) for one in members)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
