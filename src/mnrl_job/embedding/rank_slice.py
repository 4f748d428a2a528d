"""Contiguous slices of rows: for ranks, whose sizes differ by at most one row, and tiles of these."""

from collections.abc import Iterator

from accelerate import PartialState


def rank_slice(count: int, rank: int, ranks: int) -> slice:
    """The rows of a rank, out of `count`."""
    return slice(count * rank // ranks, count * (rank + 1) // ranks)


def own_slice(count: int) -> slice:
    """The rows of this rank, out of `count`."""
    state = PartialState()
    return rank_slice(count, state.process_index, state.num_processes)


def tiles_of(rows: slice, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` rows."""
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))
