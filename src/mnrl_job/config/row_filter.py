"""`MNRL_ROW_FILTER`, such as `label>=1 and split=train`."""

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
UNQUOTED = r"[^\s'\"=<>!&|,;()]+"
WORD = rf"'[^']*'|\"[^\"]*\"|{UNQUOTED}"
CONDITION = re.compile(rf"\s*({WORD})\s*(==|!=|>=|<=|=|>|<)\s*({WORD})(?:\s+|$)")
AND = re.compile(r"and\s", re.IGNORECASE)
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
BOOLEANS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of a column with a value: numbers with numbers, texts with texts."""

    column: str
    operator: str
    value: float | str

    def __str__(self) -> str:
        value = _word(self.value) if isinstance(self.value, str) else f"{self.value!r}".removesuffix(".0")
        return f"{_word(self.column)}{self.operator}{value}"

    def holds(self, value: object) -> bool:
        """Whether a value satisfies the condition. A missing value satisfies none.

        Raises:
            TypeError: it cannot be compared.
        """
        if is_missing(value):
            return False
        operand = number_of(value) if isinstance(self.value, float) else _text_of(value)
        if operand is None:
            raise TypeError(f"{value!r} is not {'a number' if isinstance(self.value, float) else 'text'}")
        return OPERATORS[self.operator](operand, self.value)


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Conditions that a row must satisfy; without any, all rows are used."""

    conditions: tuple[Condition, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.conditions)) or ALL


def parse_row_filter(text: str) -> RowFilter:
    """Parse a row filter.

    Raises:
        ValueError: it is invalid.
    """
    if text.strip().casefold() == ALL:
        return RowFilter(())
    conditions: list[Condition] = []
    position = 0
    while match := CONDITION.match(text, position):
        symbol = "=" if match[2] == "==" else match[2]
        conditions.append(Condition(_unquoted(match[1]), symbol, _literal(match[3])))
        position = match.end()
        if position == len(text):
            return RowFilter(tuple(conditions))
        conjunction = AND.match(text, position)
        if not conjunction:
            raise ValueError(f"expected 'and' before {text[position:]!r}")
        position = conjunction.end()
    raise ValueError(f"{text[position:].strip() or 'nothing'!r} is not a condition")


def number_of(value: object) -> float | None:
    """The value of a number, also as text (as in CSV), or of a boolean; None for other values."""
    if isinstance(value, str):
        text = value.strip()
        return float(text) if NUMBER.fullmatch(text) else BOOLEANS.get(text.casefold())
    if not isinstance(value, bool | int | float | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_missing(value: object) -> bool:
    """Whether a value is missing: null, NaN, or only whitespace."""
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
    """A name or text, in quotes if it needs them."""
    if re.fullmatch(UNQUOTED, text) and number_of(text) is None:
        return text
    return f'"{text}"' if "'" in text else f"'{text}'"
