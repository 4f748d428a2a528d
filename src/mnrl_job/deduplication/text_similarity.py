"""Normalize and hash texts, and split them into word pairs, by which their similarity is measured."""

import hashlib
import re
import unicodedata
from itertools import pairwise

import xxhash

# Words, with + and # (C, C++, C#); single characters in scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer,
# Burmese); and symbols (emoji, currency, a + b and a < b). No punctuation.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Combining marks without composed letters in Unicode: part of a word, though not in Python's `\w`.
MARKS = "".join(sign for sign in map(chr, range(0x300, 0x20000)) if unicodedata.category(sign).startswith("M"))
SYMBOLS = "$+<=>|~¢-¥×÷\u20a0-\u20cf\u2190-\u23ff\u2500-\u2bff\U0001f000-\U0001faff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:[{MARKS}]+[^\W{UNSPACED}]*)*[+#]*|[{SYMBOLS}]")
# The same for ASCII texts, three times as fast.
ASCII_WORD = re.compile(r"\w+[+#]*|[$+<=>|~]")


def normalize(text: str) -> str:
    """Apply Unicode NFKC, case folding and NFKC again, and collapse whitespace. Folding decomposes some letters."""
    if text.isascii():  # the same, in two thirds of the time
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def text_id(normalized: str) -> tuple[int, int]:
    """128 bits in two integers with a sign: hashes of a normalized text by BLAKE2b and XXH3, 64 bits of each.

    64 bits alone would be equal for two of two billion different texts with a probability of 0.1. Ids are ordered by
    the first, as they were when they had no other, so that a run that resumes plans the same batches.
    """
    text = normalized.encode("utf-8", "surrogatepass")
    first, second = hashlib.blake2b(text, digest_size=8).digest(), xxhash.xxh3_64_digest(text)
    return int.from_bytes(first, "big", signed=True), int.from_bytes(second, "big", signed=True)


def word_pairs(normalized: str) -> list[str]:
    """Each word with the next one; of a text of one word that word. Similarity is Jaccard's over these."""
    words = (ASCII_WORD if normalized.isascii() else WORD).findall(normalized)
    return [f"{first} {second}" for first, second in pairwise(words)] or words
