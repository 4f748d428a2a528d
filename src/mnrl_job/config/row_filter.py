"""Which rows to take: `MNRL_ROW_FILTER`, as in label>=1 and split=train."""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
ALL = "all"
PLAIN = r"[^\s'\"=<>!&|,;()]+"
WORD = rf"'[^']*'|\"[^\"]*\"|{PLAIN}"
CONDITION = re.compile(rf"\s*({WORD})\s*(==|!=|>=|<=|=|>|<)\s*({WORD})(?:\s+|$)")
AND = re.compile(r"and\s", re.IGNORECASE)
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class Condition:
    """What the value of a column must be: a number compares with numbers, a text with texts."""

    column: str
    operator: str
    value: float | str

    def __str__(self) -> str:
        value = _word(self.value) if isinstance(self.value, str) else f"{self.value!r}".removesuffix(".0")
        return f"{_word(self.column)}{self.operator}{value}"

    def holds(self, value: object) -> bool:
        """Whether a value fulfils it. One that is missing fulfils none.

        Raises:
            TypeError: it cannot be compared.
        """
        if is_missing(value):
            return False
        mine = number_of(value) if isinstance(self.value, float) else _text_of(value)
        if mine is None:
            raise TypeError(f"{value!r} is not {'a number' if isinstance(self.value, float) else 'text'}")
        return OPERATORS[self.operator](mine, self.value)


@dataclass(frozen=True, slots=True)
class RowFilter:
    """The conditions that a row must fulfil; without any, all rows are taken."""

    conditions: tuple[Condition, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.conditions)) or ALL


def parse_row_filter(text: str) -> RowFilter:
    """Read a filter as it is typed.

    Raises:
        ValueError: it is none.
    """
    if text.strip().casefold() == ALL:
        return RowFilter(())
    conditions: list[Condition] = []
    position = 0
    while found := CONDITION.match(text, position):
        sign = "=" if found[2] == "==" else found[2]
        conditions.append(Condition(_unquoted(found[1]), sign, _literal(found[3])))
        position = found.end()
        if position == len(text):
            return RowFilter(tuple(conditions))
        joint = AND.match(text, position)
        if not joint:
            raise ValueError(f"expected 'and' before {text[position:]!r}")
        position = joint.end()
    raise ValueError(f"{text[position:].strip() or 'nothing'!r} is not a condition")


def number_of(value: object) -> float | None:
    """A number, also one that is written as a text (as in CSV), or true or false; None for what is none."""
    if isinstance(value, str):
        text = value.strip()
        return float(text) if NUMBER.fullmatch(text) else TRUTH.get(text.casefold())
    if not isinstance(value, bool | int | float | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_missing(value: object) -> bool:
    """Whether there is no value: null, NaN, or a text of blanks."""
    if isinstance(value, str):
        return not value.strip() or value.strip().casefold() == "nan"
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text_of(value: object) -> str | None:
    if isinstance(value, date):
        return value.isoformat()
    return value.strip() if isinstance(value, str) else None


def _literal(word: str) -> float | str:
    text = _unquoted(word)
    number = number_of(text) if text == word else None
    return text if number is None else number


def _unquoted(word: str) -> str:
    return word[1:-1].strip() if word[0] in "'\"" else word


def _word(text: str) -> str:
    """A name or text as it must be typed."""
    if re.fullmatch(PLAIN, text) and number_of(text) is None:
        return text
    return f'"{text}"' if "'" in text else f"'{text}'"
