"""Texts grouped into chunks that are embedded at once, sorted by length to minimize padding."""

import sys
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ChunkBudget:
    """Maximum padded tokens and rows of a chunk. An additional chunk costs as much time as `overhead` tokens."""

    tokens: int
    rows: int
    overhead: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Indices of some texts, and the number of tokens each is padded to."""

    rows: NDArray[np.int64]
    width: int


def default_chunk_budget(device: torch.device, rows: int | Literal["auto"] = "auto") -> ChunkBudget:
    """On a CPU a chunk fits the caches, on a GPU it fills the device; or `rows` texts if the user set a number."""
    tokens, overhead = (16_384, 1_024) if device.type == "cuda" else (1_024, 100)
    return ChunkBudget(tokens, tokens, overhead) if rows == "auto" else ChunkBudget(sys.maxsize, rows, overhead)


def padded_widths(lengths: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """Widths that texts are padded to: at most an eighth more for long texts, no more than `longest` or than they have.

    Matrix products are compiled per shape, which on a CPU costs as much as some tokens; so there are few widths.
    """
    steps = np.select([lengths <= 32, lengths <= 128], [4, 8], 16)
    return np.asarray(np.minimum(-(-lengths // steps) * steps, np.maximum(lengths, longest)))


def chunk_sizes(most: int) -> NDArray[np.int64]:
    """Numbers of texts that a chunk may have, few as well: 1, 2, 3, 4, 6, 8, 12, 16 and so on."""
    powers = 2 ** np.arange(most.bit_length())
    sizes = np.unique(np.concatenate([powers, 3 * powers]))
    return np.asarray(sizes[sizes <= most])


def chunk_by_length(lengths: NDArray[np.int64], budget: ChunkBudget, longest: int) -> list[Chunk]:
    """Split texts into chunks, the longest texts first, such that padded tokens plus overhead are minimal.

    By dynamic programming over the texts from long to short: the cheapest split of the first j texts ends with the
    cheapest last chunk, from i to j. A text over the budget is a chunk of its own. For texts of one width the choices
    soon repeat periodically, and the rest is extrapolated: a million texts take a second.

    `lengths` has the tokens of each text, shape (texts,); `longest` is that of a sample of all batches.
    """
    order = np.argsort(-lengths, kind="stable")
    widths: list[int] = padded_widths(lengths[order], longest).tolist()
    sizes: list[int] = chunk_sizes(min(budget.rows, max(len(order), 1))).tolist()
    costs, last_sizes = [0], [0]  # of the first j texts: total cost, and size of the last chunk
    for width, run in groupby(widths):
        first = len(costs) - 1
        last = first + sum(1 for _ in run)
        period = max((size for size in sizes if size * width <= budget.tokens), default=1)
        while len(costs) <= last and not _is_periodic(costs, first, period):
            cost, size = _cheapest_last_chunk(costs, widths, sizes, budget)
            costs.append(cost)
            last_sizes.append(size)
        while len(costs) <= last:
            costs.append(costs[-1] + costs[-period] - costs[-period - 1])
            last_sizes.append(last_sizes[-period])
    chunks = []
    end = len(order)
    while end:
        start = end - last_sizes[end]
        chunks.append(Chunk(order[start:end], widths[start]))
        end = start
    return chunks[::-1]


def _cheapest_last_chunk(costs: list[int], widths: list[int], sizes: list[int], budget: ChunkBudget) -> tuple[int, int]:
    """The cost with one more text, and the size of its last chunk: the smallest of the cheapest."""
    end = len(costs)
    best, best_size = costs[-1] + widths[end - 1], 1
    for size in sizes[1:]:
        # Earlier texts are no shorter, so larger chunks do not fit either.
        if size > end or (tokens := size * widths[end - size]) > budget.tokens:
            break
        if costs[end - size] + tokens < best:
            best, best_size = costs[end - size] + tokens, size
    return best + budget.overhead, best_size


def _is_periodic(costs: list[int], first: int, period: int) -> bool:
    """Whether the choices for texts of one width, from the first on, repeat from here.

    The next choice depends only on the differences between the last `period` costs. Once all of these have increased by
    the same amount over a period, choices repeat.
    """
    count = len(costs) - 1 - first
    if count < 2 * period or count % period:
        return False
    increases = {later - earlier for earlier, later in zip(costs[-2 * period : -period], costs[-period:], strict=True)}
    return len(increases) == 1
