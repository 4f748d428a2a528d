"""How rows are split among ranks: by order, in slices that differ by one row at most."""


def rank_slice(count: int, rank: int, ranks: int) -> slice:
    """The rows of a rank, where so many are split."""
    return slice(count * rank // ranks, count * (rank + 1) // ranks)
