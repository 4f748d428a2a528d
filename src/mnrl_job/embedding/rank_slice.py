"""Contiguous slices of rows for ranks, whose sizes differ by at most one row."""


def rank_slice(count: int, rank: int, ranks: int) -> slice:
    """The rows of a rank, out of `count`."""
    return slice(count * rank // ranks, count * (rank + 1) // ranks)
