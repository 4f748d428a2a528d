"""A digest of the rows a run has trained on, step by step: equal digests mean equal batches in equal order."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def data_order_digest(steps: Iterable[NDArray[np.int64]], digest: str = "") -> str:
    """Update a digest with some global batches; 16 hexadecimal digits.

    Digests chain: a run that resumes at step k starts from `data_order_digest(plan[:k])` and ends with the digest of an
    uninterrupted run.
    """
    for rows in steps:
        row_bytes = np.ascontiguousarray(rows, dtype="<i8").tobytes()
        digest = hashlib.blake2b(bytes.fromhex(digest) + row_bytes, digest_size=8).hexdigest()
    return digest
