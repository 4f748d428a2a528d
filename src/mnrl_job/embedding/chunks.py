"""Texts cut into chunks that are embedded at once: in length order, so that little is padded.

Embeddings do not care in which order they are computed; a chunk is hardly wider than its longest text.
"""

import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Limit:
    """What is embedded at once: tokens with padding, and rows. A chunk more costs as much time as `overhead` tokens."""

    tokens: int
    rows: int
    overhead: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The numbers of some texts, and how many tokens each is padded to."""

    rows: NDArray[np.int64]
    width: int


def chunk_limit(device: torch.device, rows: int | Literal["auto"] = "auto") -> Limit:
    """On a CPU a chunk fits the caches, a GPU wants to be filled; or as many texts as somebody says."""
    tokens, overhead = (16_384, 1_024) if device.type == "cuda" else (1_024, 100)
    return Limit(tokens, tokens, overhead) if rows == "auto" else Limit(sys.maxsize, rows, overhead)


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


def cut(lengths: NDArray[np.int64], limit: Limit, longest: int) -> list[Chunk]:
    """Cut texts into chunks so that reading them all, with padding and each chunk's overhead, costs the least.

    By dynamic programming over the texts from long to short: the best way to read the first j ends with the best last
    chunk, from i to j. A text longer than the limit is a chunk of its own.

    Args:
        lengths: tokens of each text, shape (texts,).
        limit: of a chunk.
        longest: tokens of the longest text there is, also in other batches.

    Returns:
        The chunks, the longest texts first.
    """
    order = np.argsort(-lengths, kind="stable")
    wide = widths(lengths[order], longest)
    possible = sizes(min(limit.rows, max(len(order), 1)))
    cost = np.zeros(len(order) + 1)
    start = np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        begin = end - possible[: np.searchsorted(possible, end, side="right")]
        tokens = (end - begin) * wide[begin]
        begin, tokens = (some[(tokens <= limit.tokens) | (begin == end - 1)] for some in (begin, tokens))
        costs = cost[begin] + tokens + limit.overhead
        start[end], cost[end] = begin[costs.argmin()], costs.min()
    chunks = []
    end = len(order)
    while end:
        chunks.append(Chunk(order[start[end] : end], int(wide[start[end]])))
        end = start[end]
    return chunks[::-1]
