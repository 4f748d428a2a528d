"""Texts cut into chunks that are embedded at once: in length order, so that little is padded.

Embeddings do not care in which order they are computed; a chunk is hardly wider than its longest text.
"""

import sys
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ChunkBudget:
    """What is embedded at once: tokens with padding, and rows. A chunk more costs as much time as `overhead` tokens."""

    tokens: int
    rows: int
    overhead: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The numbers of some texts, and how many tokens each is padded to."""

    rows: NDArray[np.int64]
    width: int


def chunk_limit(device: torch.device, rows: int | Literal["auto"] = "auto") -> ChunkBudget:
    """On a CPU a chunk fits the caches, a GPU wants to be filled; or as many texts as somebody says."""
    tokens, overhead = (16_384, 1_024) if device.type == "cuda" else (1_024, 100)
    return ChunkBudget(tokens, tokens, overhead) if rows == "auto" else ChunkBudget(sys.maxsize, rows, overhead)


def widths(lengths: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """Tokens that texts are padded to: at most an eighth more where they are long, never more than the longest has.

    Matrix products are compiled for each shape they meet, which takes a CPU as long as some tokens; so there are few.
    """
    steps = np.select([lengths <= 32, lengths <= 128], [4, 8], 16)
    return np.asarray(np.minimum(-(-lengths // steps) * steps, longest))


def sizes(most: int) -> NDArray[np.int64]:
    """Numbers of texts that a chunk may have, few as well: 1, 2, 3, 4, 6, 8, 12, 16 and so on."""
    powers = 2 ** np.arange(most.bit_length())
    some = np.unique(np.concatenate([powers, 3 * powers]))
    return np.asarray(some[some <= most])


def chunk_by_length(lengths: NDArray[np.int64], limit: ChunkBudget, longest: int) -> list[Chunk]:
    """Cut texts into chunks so that reading them all, with padding and each chunk's overhead, costs the least.

    By dynamic programming over the texts from long to short: the best way to read the first j ends with the best last
    chunk, from i to j. A text longer than the limit is a chunk of its own. Texts of one width are soon cut in the same
    way again and again, and once they are, the rest of them is not tried: a million take a second.

    Args:
        lengths: tokens of each text, shape (texts,).
        limit: of a chunk.
        longest: tokens of the longest text there is, also in other batches.

    Returns:
        The chunks, the longest texts first.
    """
    order = np.argsort(-lengths, kind="stable")
    wide: list[int] = widths(lengths[order], longest).tolist()
    possible: list[int] = sizes(min(limit.rows, max(len(order), 1))).tolist()
    cost, taken = [0], [0]  # of the first j texts: what reading them costs, and how many the last chunk has
    for width, run in groupby(wide):
        first = len(cost) - 1
        last = first + sum(1 for _ in run)
        period = max((size for size in possible if size * width <= limit.tokens), default=1)
        while len(cost) <= last and not _repeats(cost, first, period):
            total, size = _cheapest(cost, wide, possible, limit)
            cost.append(total)
            taken.append(size)
        while len(cost) <= last:
            cost.append(cost[-1] + cost[-period] - cost[-period - 1])
            taken.append(taken[-period])
    chunks = []
    end = len(order)
    while end:
        begin = end - taken[end]
        chunks.append(Chunk(order[begin:end], wide[begin]))
        end = begin
    return chunks[::-1]


def _cheapest(cost: list[int], wide: list[int], possible: list[int], limit: ChunkBudget) -> tuple[int, int]:
    """What one text more costs with the best last chunk, and how many texts that has: the fewest, if several do."""
    end = len(cost)
    best, chosen = cost[-1] + wide[end - 1], 1
    for size in possible[1:]:
        # Texts further back are no shorter, so larger chunks do not fit either.
        if size > end or (tokens := size * wide[end - size]) > limit.tokens:
            break
        if cost[end - size] + tokens < best:
            best, chosen = cost[end - size] + tokens, size
    return best + limit.overhead, chosen


def _repeats(cost: list[int], first: int, period: int) -> bool:
    """Whether texts of one width, which begin at the first, will be cut as the last ones were.

    The next choice hangs on the last costs alone, as many as the largest chunk has texts, and on these only by how they
    differ from one another. So once they have all risen by the same, choices repeat.
    """
    count = len(cost) - 1 - first
    if count < 2 * period or count % period:
        return False
    rises = {later - earlier for earlier, later in zip(cost[-2 * period : -period], cost[-period:], strict=True)}
    return len(rises) == 1
