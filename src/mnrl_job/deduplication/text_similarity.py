"""What makes two texts the same: equal after normalising, or nearly all their word pairs in common."""

import hashlib
import re
import unicodedata
from itertools import pairwise

# Words, with the signs that make another word (C, C++, C#); where a script writes no blanks (Chinese, Japanese, Thai,
# Lao, Khmer, Burmese), characters; and symbols (emoji, currency, a + b and a < b). Never punctuation.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Accents and vowel signs that Unicode has no composed letters for: part of a word, though not `\w` to Python.
MARKS = "".join(sign for sign in map(chr, range(0x300, 0x20000)) if unicodedata.category(sign).startswith("M"))
SYMBOLS = "$+<=>|~¢-¥×÷\u20a0-\u20cf\u2190-\u23ff\u2500-\u2bff\U0001f000-\U0001faff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:[{MARKS}]+[^\W{UNSPACED}]*)*[+#]*|[{SYMBOLS}]")
# The same where all is ASCII, in a third of the time.
ASCII_WORD = re.compile(r"\w+[+#]*|[$+<=>|~]")


def normalize(text: str) -> str:
    """Unicode NFKC, case-folded (which takes some letters apart, so NFKC again), runs of white space as one blank."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def text_id(normalised: str) -> int:
    """The first 8 bytes of the BLAKE2b hash: a number for a text that needs no table in memory.

    For ten million different texts the chance that any two collide is about 3 in a million.
    """
    digest = hashlib.blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def word_pairs(normalised: str) -> list[str]:
    """Each word with the one after it; a text of one word is that word. Similarity is Jaccard's over these."""
    words = (ASCII_WORD if normalised.isascii() else WORD).findall(normalised)
    return [f"{one} {two}" for one, two in pairwise(words)] or words
