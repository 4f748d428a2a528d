"""Which texts say nothing: those of which nobody would see any character."""

import re

UNSEEN = (
    "["
    r"\s\x00-\x1f\x7f-\x9f"  # white space, control characters
    r"\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # format characters
    # What else is default-ignorable (Unicode's DerivedCoreProperties.txt): joiners, fillers, variation selectors, tags.
    r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff"
    r"\u2800\U0001d159"  # signs without ink: a braille cell without dots, a note without a head
    "]*"
)
BLANK = re.compile(UNSEEN)


def is_blank(text: str) -> bool:
    """Whether there is nothing to be seen. What is unseen within a text, such as a joiner, belongs to it."""
    return BLANK.fullmatch(text) is not None


def trimmed(text: str) -> str:
    """A text without what is unseen around it."""
    return text[_unseen(text) : len(text) - _unseen(text[::-1])] if not is_blank(text) else ""


def _unseen(text: str) -> int:
    """How many characters are unseen before the first that is not."""
    found = BLANK.match(text)
    return found.end() if found else 0
