"""Texts cut into chunks: each once, none too large, and as cheap to read as can be."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.embedding.chunks import Limit, chunk_limit, cut

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=9).map(np.array)
LIMITS = st.builds(Limit, st.integers(1, 100), st.integers(1, 9), st.integers(0, 20))


def cost(chunks, lengths, limit):
    return sum(len(chunk) * lengths[chunk].max() + limit.overhead for chunk in chunks)


def every_way(ordered, limit):
    """All ways of cutting texts that are sorted from long to short."""
    if not len(ordered):
        yield []
    for size in range(1, len(ordered) + 1):
        if size == 1 or (size <= limit.rows and size * ordered[0] <= limit.tokens):
            yield from ([size, *others] for others in every_way(ordered[size:], limit))


@given(lengths=LENGTHS, limit=LIMITS)
def test_each_text_is_in_one_chunk_and_no_way_of_cutting_costs_less(lengths, limit):
    chunks = cut(lengths, limit)
    assert sorted(np.concatenate(chunks).tolist()) == list(range(len(lengths)))
    for chunk in chunks:
        assert len(chunk) == 1 or (len(chunk) <= limit.rows and len(chunk) * lengths[chunk].max() <= limit.tokens)
    ordered = np.sort(lengths)[::-1]
    starts = [np.concatenate([[0], np.cumsum(sizes)[:-1]]) for sizes in every_way(ordered, limit)]
    sizes = list(every_way(ordered, limit))
    least = min(
        sum(size * ordered[start] + limit.overhead for size, start in zip(one, at, strict=True))
        for one, at in zip(sizes, starts, strict=True)
    )
    assert cost(chunks, lengths, limit) == least


def test_nothing_is_cut_into_nothing():
    assert cut(np.empty(0, dtype=np.int64), Limit(10, 10, 1)) == []


def test_real_lengths_are_read_with_little_padding():
    """Of texts of 5 to 250 tokens a batch of 64 pairs is padded by less than 15 %; as one block it would double."""
    lengths = np.random.default_rng(0).gamma(2, 40, 128).clip(5, 256).astype(np.int64)
    chunks = cut(lengths, chunk_limit(torch.device("cpu")))
    assert sum(len(chunk) * lengths[chunk].max() for chunk in chunks) < 1.15 * lengths.sum()
    assert len(lengths) * lengths.max() > 2 * lengths.sum()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_number_of_texts_is_taken_at_its_word(device):
    assert chunk_limit(torch.device(device), 7).rows == 7
    assert chunk_limit(torch.device(device), 7).tokens == sys.maxsize
