"""Texts cut into chunks that are embedded at once: in length order, so that little is padded.

Embeddings do not care in which order they are computed; a chunk is as wide as its longest text.
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


def chunk_limit(device: torch.device, rows: int | Literal["auto"] = "auto") -> Limit:
    """On a CPU a chunk fits the caches, a GPU wants to be filled; or as many texts as somebody says."""
    tokens, overhead = (16_384, 1_024) if device.type == "cuda" else (1_024, 100)
    return Limit(tokens, tokens, overhead) if rows == "auto" else Limit(sys.maxsize, rows, overhead)


def cut(lengths: NDArray[np.int64], limit: Limit) -> list[NDArray[np.int64]]:
    """Cut texts into chunks so that reading them all, with padding and each chunk's overhead, costs the least.

    By dynamic programming over the texts from long to short: the best way to read the first j ends with the best last
    chunk, from i to j. A text longer than the limit is a chunk of its own.

    Args:
        lengths: tokens of each text, shape (texts,).
        limit: of a chunk.

    Returns:
        The numbers of the texts of each chunk, the longest first.
    """
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order]
    cost = np.zeros(len(order) + 1)
    start = np.zeros(len(order) + 1, dtype=np.int64)
    first = 0
    for end in range(1, len(order) + 1):
        while first < end - 1 and (end - first > limit.rows or (end - first) * sorted_lengths[first] > limit.tokens):
            first += 1
        begin = np.arange(first, end)
        costs = cost[first:end] + (end - begin) * sorted_lengths[first:end] + limit.overhead
        start[end] = first + costs.argmin()
        cost[end] = costs.min()
    chunks = []
    end = len(order)
    while end:
        chunks.append(order[start[end] : end])
        end = start[end]
    return chunks[::-1]
