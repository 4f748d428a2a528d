"""Texts that look broken in any language: wrongly decoded, with markup, of one word."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mnrl_job.preparation.texts import UNSPACED

EXAMPLES = 3
SHOWN_CHARACTERS = 200

# UTF-8 read as Latin-1 or Windows-1252 ("Ã©" for "é", "â€™" for "’"), and what stands for undecodable bytes.
MOJIBAKE = "[ÃÂ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸ]|â[\u0080-\u009f€‚„…†‡ˆ‰‹‘’“”•–—˜™›œ]|ï»¿|\ufffd"
TAGS = "a|b|body|br|code|div|em|h[1-6]|head|html|i|img|li|ol|p|pre|script|span|strong|style|table|td|th|tr|u|ul"
HTML = rf"(?i)</?(?:{TAGS})(?:\s[^<>]*)?/?>|&(?:amp|lt|gt|quot|nbsp|apos|#\d+);"
# Not where a script writes no blanks between words.
ONE_WORD = rf"^[^\s{UNSPACED}]+$"


def find_oddities(table: pa.Table) -> dict[str, Any]:
    """Count rows by what is odd about them, with a few examples each."""
    anchor, positive = table["anchor"], table["positive"]
    found = {
        "mojibake": _either(anchor, positive, MOJIBAKE),
        "html": _either(anchor, positive, HTML),
        "one_word_positives": _matches(positive, ONE_WORD),
        "anchor_equals_positive": np.asarray(pc.equal(anchor, positive)),
    }
    return {
        name: {"rows": int(odd.sum()), "examples": examples(table, np.flatnonzero(odd))} for name, odd in found.items()
    }


def examples(table: pa.Table, rows: NDArray[np.int64]) -> list[dict[str, str]]:
    """The first few of some rows, shortened."""
    some = table.take(pa.array(rows[:EXAMPLES])).to_pylist()
    return [{name: shortened(text) for name, text in row.items()} for row in some]


def shortened(text: str) -> str:
    """At most `SHOWN_CHARACTERS`."""
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _either(one: pa.ChunkedArray, other: pa.ChunkedArray, pattern: str) -> NDArray[np.bool_]:
    return _matches(one, pattern) | _matches(other, pattern)


def _matches(column: pa.ChunkedArray, pattern: str) -> NDArray[np.bool_]:
    return np.asarray(pc.match_substring_regex(column, pattern))
