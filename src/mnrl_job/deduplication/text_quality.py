"""Texts that look broken in any language: wrongly decoded, with markup, of one word."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mnrl_job.data.missing_values import MISSING_VALUES
from mnrl_job.data.tables import take
from mnrl_job.deduplication.text_similarity import UNSPACED
from mnrl_job.system.secrets import redact

EXAMPLES = 3
SHOWN_CHARACTERS = 200

# The later bytes of a character in UTF-8, as they look when read as Latin-1 or Windows-1252; some may follow a word.
AFTER_WORDS = "\u00a0«»‘’“”•–—…"
LATER = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
MOJIBAKE = "|".join(
    [
        r"[ÃÂ][\x{a1}-\x{aa}\x{ac}-\x{ba}\x{bc}-\x{bf}€‚ƒ„†‡ˆ‰Š‹ŒŽ˜™š›œžŸ]",  # "Ã©" for "é"
        rf"(?:^|[^\p{{Lu}}])[ÃÂ][{AFTER_WORDS}]",  # "Ã” and NBSP" for "à", not the end of "AMANHÃ…"
        "â[€‚„…†‡ˆ‰‹‘’“”•–—˜™›œ]",  # "â€™" for "’"
        f"(?:[Ã-ß][{LATER}]){{2}}",  # Greek, Cyrillic, Hebrew, Arabic: two letters of two bytes
        f"(?:[à-ï][{LATER}]{{2}}){{2}}",  # the scripts of India and East Asia: two of three bytes
        "ðŸ|ï»¿|ï¿½|\ufffd",  # emoji, byte order mark, what stands for undecodable bytes
        r"[\x{80}-\x{84}\x{86}-\x{9f}]",  # control characters that no text has
    ]
)
TAGS = "a|b|body|br|code|div|em|h[1-6]|head|html|i|img|li|ol|p|pre|script|span|strong|style|table|td|th|tr|u|ul"
HTML = rf"(?i)</?(?:{TAGS})(?:\s[^<>]*)?/?>|&(?:amp|lt|gt|quot|nbsp|apos|#\d+|#x[\da-f]+);"
# pandas, databases, spreadsheets and scripts write these where there is no value.
NO_VALUE = rf"(?i)^(?:{'|'.join(re.escape(word) for word in sorted(MISSING_VALUES))})$"
# Not where a script writes no blanks between words.
ONE_WORD = rf"^[^\s\pZ{UNSPACED}]+$"


def find_oddities(table: pa.Table) -> dict[str, Any]:
    """Count rows by what is odd about them, with a few examples each."""
    anchor, positive = table["anchor"], table["positive"]
    found = {
        "mojibake": _either(anchor, positive, MOJIBAKE),
        "html": _either(anchor, positive, HTML),
        "one_word_positives": _matches(positive, ONE_WORD),
        "words_for_missing_values": _either(anchor, positive, NO_VALUE),
        "anchor_equals_positive": np.asarray(pc.equal(anchor, positive)),
    }
    return {
        name: {"rows": int(odd.sum()), "examples": examples(table, np.flatnonzero(odd))} for name, odd in found.items()
    }


def examples(table: pa.Table, rows: NDArray[np.int64]) -> list[dict[str, str]]:
    """The anchors and positives of the first few of some rows, shortened."""
    texts = {name: shown(table[name], rows[:EXAMPLES]) for name in ("anchor", "positive")}
    return [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]


def shown(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> list[str]:
    """The texts of some rows, shortened."""
    return [shortened(text) for text in take(column, rows).to_pylist()]


def shortened(text: str) -> str:
    """At most `SHOWN_CHARACTERS`, without secrets: of one that is cut, a part would not be known as such later."""
    text = redact(text)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _either(one: pa.ChunkedArray, other: pa.ChunkedArray, pattern: str) -> NDArray[np.bool_]:
    return _matches(one, pattern) | _matches(other, pattern)


def _matches(column: pa.ChunkedArray, pattern: str) -> NDArray[np.bool_]:
    return np.asarray(pc.match_substring_regex(column, pattern))
