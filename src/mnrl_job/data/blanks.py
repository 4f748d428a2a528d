"""Texts without a visible character."""

import re

INVISIBLE = (
    "["
    r"\s\x00-\x1f\x7f-\x9f"  # white space, control characters
    r"\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # format characters
    # What else is default-ignorable (Unicode's DerivedCoreProperties.txt): joiners, fillers, variation selectors, tags.
    r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff"
    r"\u2800\U0001d159"  # signs without ink: the blank braille cell, the null notehead
    "]*"
)
BLANK = re.compile(INVISIBLE)


def is_blank(text: str) -> bool:
    """Whether a text has no visible character. Invisible ones inside a text, such as joiners, belong to it."""
    return BLANK.fullmatch(text) is not None


def strip_invisible(text: str) -> str:
    """A text without leading and trailing invisible characters."""
    return text[_count_leading(text) : len(text) - _count_leading(text[::-1])] if not is_blank(text) else ""


def _count_leading(text: str) -> int:
    match = BLANK.match(text)
    return match.end() if match else 0
