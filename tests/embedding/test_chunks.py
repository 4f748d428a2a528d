"""Texts cut into chunks: each once, none too large, and as cheap to read as can be."""

import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnrl_job.embedding.chunks import ChunkBudget, chunk_by_length, chunk_sizes, default_chunk_budget, padded_widths

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=9).map(np.array)
LIMITS = st.builds(ChunkBudget, st.integers(1, 1000), st.integers(1, 9), st.integers(0, 200))


def every_way(ordered, limit, longest):
    """What each way of cutting texts costs, which are sorted from long to short."""
    if not len(ordered):
        yield 0
    for size in (1, 2, 3, 4, 6, 8):
        tokens = size * int(padded_widths(ordered[:1], longest)[0]) if len(ordered) >= size else np.inf
        if (tokens <= limit.tokens and size <= limit.rows) or (size == 1 and len(ordered)):
            yield from (tokens + limit.overhead + more for more in every_way(ordered[size:], limit, longest))


@given(lengths=LENGTHS, limit=LIMITS)
def test_each_text_is_in_one_chunk_and_no_way_of_cutting_costs_less(lengths, limit):
    longest = int(lengths.max())
    chunks = chunk_by_length(lengths, limit, longest)
    assert sorted(np.concatenate([chunk.rows for chunk in chunks]).tolist()) == list(range(len(lengths)))
    for chunk in chunks:
        assert lengths[chunk.rows].max() <= chunk.width <= longest
        assert len(chunk.rows) == 1 or (len(chunk.rows) <= limit.rows and chunk.width * len(chunk.rows) <= limit.tokens)
    cost = sum(chunk.width * len(chunk.rows) + limit.overhead for chunk in chunks)
    assert cost == min(every_way(np.sort(lengths)[::-1], limit, longest))


def cut_by_trying_all(lengths, limit, longest):
    """The same, with every size tried for every text."""
    order = np.argsort(-lengths, kind="stable")
    wide = padded_widths(lengths[order], longest)
    possible = chunk_sizes(min(limit.rows, max(len(order), 1)))
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
        chunks.append((order[start[end] : end].tolist(), int(wide[start[end]])))
        end = start[end]
    return chunks[::-1]


def as_lists(chunks):
    return [(chunk.rows.tolist(), chunk.width) for chunk in chunks]


MANY = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 80)), min_size=1, max_size=4).map(
    lambda runs: np.repeat(*np.array(runs).T)
)


@settings(max_examples=60)
@given(
    lengths=MANY,
    limit=st.builds(
        ChunkBudget,
        st.integers(1, 300) | st.just(sys.maxsize),
        st.integers(1, 20) | st.just(sys.maxsize),
        st.integers(0, 99),
    ),
)
def test_many_texts_of_few_widths_are_cut_as_if_each_were_tried(lengths, limit):
    longest = int(lengths.max())
    assert as_lists(chunk_by_length(lengths, limit, longest)) == cut_by_trying_all(lengths, limit, longest)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_so_are_texts_of_real_lengths(device):
    lengths = np.random.default_rng(0).gamma(3, 28, 3_000).clip(4, 256).astype(np.int64)
    limit = default_chunk_budget(torch.device(device))
    assert as_lists(chunk_by_length(lengths, limit, 256)) == cut_by_trying_all(lengths, limit, 256)


def test_a_corpus_is_cut_in_no_time():
    lengths = np.random.default_rng(0).gamma(3, 28, 200_000).clip(4, 256).astype(np.int64)
    began = time.process_time()
    chunk_by_length(lengths, default_chunk_budget(torch.device("cpu")), 256)
    assert time.process_time() - began < 3


def test_nothing_is_cut_into_nothing():
    assert chunk_by_length(np.empty(0, dtype=np.int64), ChunkBudget(10, 10, 1), 0) == []


def test_real_lengths_are_read_with_little_padding_in_few_shapes():
    """Batches of 64 pairs are padded by less than a fifth, as one block they would double; their shapes repeat."""
    shapes = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lengths = np.concatenate([rng.integers(6, 20, 64), rng.gamma(3, 28, 64).clip(10, 256).astype(np.int64)])
        chunks = chunk_by_length(lengths, default_chunk_budget(torch.device("cpu")), 256)
        shapes += [(len(chunk.rows), chunk.width) for chunk in chunks]
        assert sum(len(chunk.rows) * chunk.width for chunk in chunks) < 1.2 * lengths.sum()
        assert len(lengths) * lengths.max() > 2 * lengths.sum()
    assert len(set(shapes)) < len(shapes) / 2


def test_no_text_is_padded_beyond_what_the_model_may_take():
    assert padded_widths(np.array([1, 30, 33, 70, 77]), 77).tolist() == [4, 32, 40, 72, 77]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_number_of_texts_is_taken_at_its_word(device):
    assert default_chunk_budget(torch.device(device), 7).rows == 7
    assert default_chunk_budget(torch.device(device), 7).tokens == sys.maxsize
