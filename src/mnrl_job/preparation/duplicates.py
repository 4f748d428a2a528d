"""Which texts are the same text: one number for each, so that the batch plan can keep equal ones apart."""

import hashlib
import unicodedata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnrl_job.records import Pairs
from mnrl_job.runtime.tables import read_table


def normalise(text: str) -> str:
    """Unicode NFKC, case-folded, runs of white space as one blank: what counts as the same text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def write_text_ids(pairs: Pairs, path: Path) -> NDArray[np.int64]:
    """Write and return an array of shape (rows, columns): equal numbers mean equal texts after `normalise`.

    A number is the first 8 bytes of the text's BLAKE2b hash, so it needs no table in memory. For ten million
    different texts the chance that any two collide is about 3 in a million.
    """
    blocks = [np.empty((0, len(pairs.columns)), dtype=np.int64)]
    for batch in read_table(pairs.path).to_batches():
        columns = [[_text_id(text) for text in column.to_pylist()] for column in batch.columns]
        blocks.append(np.array(columns, dtype=np.int64).T)
    ids = np.concatenate(blocks)
    np.save(path, ids)
    return ids


def _text_id(text: str) -> int:
    digest = hashlib.blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
