"""A digest of the rows a run has trained on, step by step: equal digests mean equal batches in equal order."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def data_order_digest(steps: Iterable[NDArray[np.int64]], before: str = "") -> str:
    """Continue a digest by some global batches; 16 hexadecimal digits.

    It chains: the digest of ten steps is that of the last four, begun from that of the first six. So a run that goes on
    at step k begins from `digest(plan[:k])`, and ends with the digest of a run that was never interrupted.
    """
    for rows in steps:
        content = np.ascontiguousarray(rows, dtype="<i8").tobytes()
        before = hashlib.blake2b(bytes.fromhex(before) + content, digest_size=8).hexdigest()
    return before
