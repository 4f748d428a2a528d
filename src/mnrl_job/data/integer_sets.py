"""Counting and finding among many millions of whole numbers, while other threads of this process get on.

`np.unique(axis=0)` keeps Python's lock for as long as it runs (2 million rows: 1.3 s), and without a further result
`np.unique` fills a hash table: 2.0 s for 2 million numbers, where sorting takes 0.1 s. Sorting and counting give way.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def distinct(numbers: Numbers) -> Numbers:
    """The different numbers of an array, in ascending order."""
    ordered = np.sort(numbers, axis=None)
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]


def used(numbers: Numbers) -> Numbers:
    """As `distinct`, of numbers from 0 to not far above their count, such as rows and groups: counted, not sorted."""
    return np.flatnonzero(np.bincount(numbers.ravel()))


def distinct_pairs(pairs: Numbers) -> Numbers:
    """The different pairs of small numbers, in ascending order, shape (pairs, 2): each sorted as one number.

    Args:
        pairs: none negative; the product of the largest of each column is below 2 ** 63. Shape (pairs, 2).
    """
    span = int(pairs[:, 1].max(initial=0)) + 1
    return np.stack(np.divmod(distinct(pairs[:, 0] * span + pairs[:, 1]), span), axis=1)


def are_among(numbers: Numbers, others: Numbers) -> NDArray[np.bool_]:
    """Mark the numbers that are among the others, however large they are. Shape of `numbers`."""
    if not others.size:
        return np.zeros(numbers.shape, dtype=bool)
    ordered = np.sort(others, axis=None)
    return np.asarray(ordered[np.minimum(np.searchsorted(ordered, numbers), len(ordered) - 1)] == numbers)
