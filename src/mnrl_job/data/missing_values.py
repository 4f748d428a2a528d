"""Words that tools write for a missing value. They may be real text, so they cause a warning and no error."""

# pandas' own list, and what databases, spreadsheets and scripts write.
MISSING_VALUES = frozenset(
    {
        *("nan", "-nan", "+nan", "none", "null", "(null)", "[null]", "nil", "n/a", "na", "<na>", "#n/a", "#na", "nat"),
        *("undefined", "\\n", "<null>", "<none>", "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!"),
        *("-1.#ind", "1.#ind", "-1.#qnan", "1.#qnan"),
    }
)
LONGEST_WORD = max(map(len, MISSING_VALUES))


def is_missing_value(text: str) -> bool:
    """Whether a text consists of such a word."""
    return len(text) <= LONGEST_WORD and text.casefold() in MISSING_VALUES
