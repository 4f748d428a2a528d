"""Lists written as text, as Python, JSON, NumPy or Arrow print them."""

import ast
import json
import re
from typing import Literal

StringifiedType = Literal["list", "bytes", "object"]

OPENERS = frozenset("[({ab")
STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
# NumPy prints no commas, so Python would concatenate its strings.
LIST = re.compile(rf"(?:array\()?[\[(]\s*((?:(?:{STRING})[\s,]*)*)[\])](?:,\s*dtype=[^()]*)?\)?", re.DOTALL)
LIST_WITH_NULLS = re.compile(rf"\[\s*(?:(?:{STRING}|nan|None|null|<NA>|NaN)[\s,]*)+\]", re.DOTALL)
BYTES = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*\"""", re.DOTALL)


def stringified_type(text: str) -> StringifiedType | None:
    """The type of the value that a text represents; None for ordinary text."""
    text = text.strip()
    if text[:1] not in OPENERS:
        return None
    if BYTES.fullmatch(text):
        return "bytes"
    if LIST_WITH_NULLS.fullmatch(text) or parse_list(text) is not None:
        return "list"
    return "object" if _is_object(text) else None


def parse_list(text: str) -> list[str] | None:
    """The texts of a stringified list; None if it is not a list of texts."""
    text = text.strip()
    value = _parse_json(text)
    if value is not None:
        return value if isinstance(value, list) and all(isinstance(member, str) for member in value) else None
    match = LIST.fullmatch(text)
    if not match or (text[0] == "(" and "," not in text):
        return None
    try:
        return [ast.literal_eval(string) for string in re.findall(STRING, match[1], re.DOTALL)]
    except (ValueError, SyntaxError):
        return None


def _is_object(text: str) -> bool:
    """Whether a text is an object, or a list of objects or lists."""
    value = _parse_json(text) if text[-1] in "}]" else None
    if value is None and text[-1] in "}])":
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return False
    members = value if isinstance(value, list | tuple) else [value]
    return bool(members) and all(isinstance(member, dict | list | tuple) for member in members)


def _parse_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
