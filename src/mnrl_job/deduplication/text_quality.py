"""Signs of broken texts in any language: mojibake, markup, missing values, single words."""

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
MAX_CHARACTERS = 200

# Continuation bytes of UTF-8 decoded as Latin-1 or Windows-1252. The first ones may also follow a word.
AFTER_WORDS = "\u00a0«»‘’“”•–—…"
CONTINUATION = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
MOJIBAKE = "|".join(
    [
        r"[ÃÂ][\x{a1}-\x{aa}\x{ac}-\x{ba}\x{bc}-\x{bf}€‚ƒ„†‡ˆ‰Š‹ŒŽ˜™š›œžŸ]",  # "Ã©" for "é"
        rf"(?:^|[^\p{{Lu}}])[ÃÂ][{AFTER_WORDS}]",  # "Ã” and NBSP" for "à", not the end of "AMANHÃ…"
        "â[€‚„…†‡ˆ‰‹‘’“”•–—˜™›œ]",  # "â€™" for "’"
        f"(?:[Ã-ß][{CONTINUATION}]){{2}}",  # Greek, Cyrillic, Hebrew, Arabic: two characters of two bytes
        f"(?:[à-ï][{CONTINUATION}]{{2}}){{2}}",  # the scripts of India and East Asia: two characters of three bytes
        "ðŸ|ï»¿|ï¿½|\ufffd",  # emoji, byte order mark, replacement character
        r"[\x{80}-\x{84}\x{86}-\x{9f}]",  # control characters
    ]
)
TAGS = "a|b|body|br|code|div|em|h[1-6]|head|html|i|img|li|ol|p|pre|script|span|strong|style|table|td|th|tr|u|ul"
HTML = rf"(?i)</?(?:{TAGS})(?:\s[^<>]*)?/?>|&(?:amp|lt|gt|quot|nbsp|apos|#\d+|#x[\da-f]+);"
NO_VALUE = rf"(?i)^(?:{'|'.join(re.escape(word) for word in sorted(MISSING_VALUES))})$"
# Not in scripts without spaces between words.
ONE_WORD = rf"^[^\s\pZ{UNSPACED}]+$"


def describe_text_quality(table: pa.Table) -> dict[str, Any]:
    """The number of rows with each sign of a broken text, with a few examples."""
    anchor, positive = table["anchor"], table["positive"]
    masks = {
        "mojibake": _matches(anchor, MOJIBAKE) | _matches(positive, MOJIBAKE),
        "html": _matches(anchor, HTML) | _matches(positive, HTML),
        "one_word_positives": _matches(positive, ONE_WORD),
        "words_for_missing_values": _matches(anchor, NO_VALUE) | _matches(positive, NO_VALUE),
        "anchor_equals_positive": np.asarray(pc.equal(anchor, positive)),
    }
    return {
        name: {"rows": int(mask.sum()), "examples": example_pairs(table, np.flatnonzero(mask))}
        for name, mask in masks.items()
    }


def example_pairs(table: pa.Table, rows: NDArray[np.int64]) -> list[dict[str, str]]:
    """The shortened anchors and positives of the first few of the given rows."""
    texts = {name: shortened_texts(table[name], rows[:EXAMPLES]) for name in ("anchor", "positive")}
    return [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]


def shortened_texts(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> list[str]:
    return [shorten(text) for text in take(column, rows).to_pylist()]


def shorten(text: str) -> str:
    """The first `MAX_CHARACTERS`. Secrets are redacted before, as a truncated one would no longer be recognized."""
    text = redact(text)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def _matches(column: pa.ChunkedArray, pattern: str) -> NDArray[np.bool_]:
    return np.asarray(pc.match_substring_regex(column, pattern))
