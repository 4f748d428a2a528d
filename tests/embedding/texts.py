"""Texts to embed, as a column of an Arrow file."""

import pyarrow as pa

from tests.examples import PAIRS

TEXTS = [text for pair in PAIRS for text in pair] * 3 + ["", "word " * 100]


def column(texts):
    return pa.chunked_array([pa.array(texts)])
