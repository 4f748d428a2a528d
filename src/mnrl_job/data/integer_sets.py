"""Set operations on arrays of many millions of integers that release the GIL.

`np.unique(axis=0)` holds the GIL (2 million rows: 1.3 s), and `np.unique` without a further result fills a hash table
(2 million numbers: 2.0 s, where sorting takes 0.1 s).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of 32 bits where that many texts or rows are enough.
Integers = NDArray[np.signedinteger[Any]]


def distinct(numbers: Integers) -> Integers:
    """The distinct numbers of an array, in ascending order."""
    ordered = np.sort(numbers, axis=None)
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]


def distinct_dense(numbers: Integers) -> Integers:
    """As `distinct`, by counting: for numbers between 0 and about the array's size, such as rows and groups."""
    return np.flatnonzero(np.bincount(numbers.ravel()))


def dense_ranks(numbers: Integers) -> Integers:
    """The rank of each number among the distinct ones, by counting, for the same numbers. Type and shape as given."""
    occurs = np.zeros(int(numbers.max(initial=-1)) + 1, dtype=bool)
    occurs[numbers] = True
    return np.asarray(np.cumsum(occurs, dtype=numbers.dtype)[numbers] - 1)


def distinct_pairs(pairs: Integers) -> Integers:
    """The distinct pairs, in ascending order, shape (pairs, 2), as the argument.

    They are not negative, and the product of the columns' maxima is below 2 ** 63.
    """
    span = int(pairs[:, 1].max(initial=0)) + 1
    return np.stack(np.divmod(distinct(pairs[:, 0].astype(np.int64) * span + pairs[:, 1]), span), axis=1)


def is_in(numbers: Integers, others: Integers) -> NDArray[np.bool_]:
    """As `np.isin`, for numbers of any size. Shape of `numbers`."""
    if not others.size:
        return np.zeros(numbers.shape, dtype=bool)
    ordered = np.sort(others, axis=None)
    return np.asarray(ordered[np.minimum(np.searchsorted(ordered, numbers), len(ordered) - 1)] == numbers)
