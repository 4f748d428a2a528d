"""Held-out pairs: no text of the eval set, nor a near-duplicate, is trained on."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnrl_job.data.components import find_components
from mnrl_job.deduplication.groups import find_groups
from mnrl_job.deduplication.holdout import HoldoutSpec, choose_rows, hold_out
from mnrl_job.deduplication.text_similarity import normalize, word_pairs
from tests.deduplication.rows import LONG, pairs_of, text_groups

GROUPS = st.lists(st.tuples(st.integers(0, 30), st.integers(20, 60)), min_size=10, max_size=120).map(np.array)


@given(groups=GROUPS, ratio=st.sampled_from([0.1, 0.3, 0.5]))
def test_no_group_is_both_held_out_and_trained_on_and_the_ratio_is_respected(groups, ratio):
    limit = int(ratio * len(groups))
    held = choose_rows(groups, groups[:, 0], spec(limit))
    if not held.any():
        sizes = np.unique(find_components(groups), return_counts=True)[1]
        assert sizes.min() > limit, "only where no set of rows is small enough"
    assert held.sum() <= limit
    assert not set(groups[held].ravel().tolist()) & set(groups[~held].ravel().tolist())


def spec(rows, seed=1, queries=1_000, other_documents=10_000):
    return HoldoutSpec(rows, queries, other_documents, seed)


def all_rows(read):
    return np.ones(read.rows, dtype=bool)


def test_rows_are_connected_by_anchor_by_positive_and_across():
    groups = np.array([(0, 10), (0, 11), (1, 11), (2, 12), (12, 13), (3, 14)])
    assert len(set(find_components(groups)[:3].tolist())) == 1
    rows = find_components(groups)
    assert rows[3] == rows[4], "a text that is a positive here and an anchor there"
    assert len(set(find_components(groups).tolist())) == 3


@pytest.fixture
def held_out_pairs(pairs, tmp_path):
    """Forty rows: twenty answers of two anchors each, every second answer a near-duplicate of the previous one."""
    rows = [(f"question {i}", f"{LONG} {'abcdefghij'[i // 4] * 3} {i // 4} {'x' * (i // 2 % 2)}") for i in range(40)]
    rows = [(anchor, " ".join([positive] * 2)) for anchor, positive in rows]
    read = pairs(rows)
    groups = find_groups(read, None, 0.9, tmp_path / "texts")
    return rows, groups, *hold_out(read, groups, all_rows(read), spec(8, seed=3))


def test_the_eval_set_consists_of_held_out_pairs_and_other_documents(held_out_pairs):
    rows, groups, is_held_out, data = held_out_pairs
    assert 0 < is_held_out.sum() <= 8
    held_out_rows = [rows[row] for row in np.flatnonzero(is_held_out)]
    assert set(data.queries.values()) == {anchor for anchor, _ in held_out_rows}
    judged = {(data.queries[query], data.corpus[document]) for query, document in data.qrels}
    assert {anchor for anchor, _ in judged} == {anchor for anchor, _ in held_out_rows}
    assert len(data.corpus) == len(set(groups.group_ids[:, 1].tolist())), "one document of each group"
    assert len(data.corpus) > len({document for _, document in data.qrels}), "there are distractors"


def test_near_duplicates_of_held_out_texts_are_held_out(held_out_pairs):
    _, groups, is_held_out, _ = held_out_pairs
    assert not set(groups.group_ids[is_held_out, 1].tolist()) & set(groups.group_ids[~is_held_out, 1].tolist())


def test_only_candidates_are_held_out_and_serve_as_distractors(held_out_pairs, pairs):
    rows, groups, *_ = held_out_pairs
    read = pairs(rows)
    is_candidate = np.arange(40) >= 20
    is_held_out, data = hold_out(read, groups, is_candidate, spec(8))
    assert 0 < is_held_out.sum() <= 8
    assert not is_held_out[:20].any()
    assert set(data.corpus.values()) <= {positive for _, positive in rows[20:]}


# Texts of one topic are near-duplicates, whichever word they lack.
TEXTS = st.builds(
    lambda topic, gone: " ".join(f"{topic}{i}" for i in range(100) if i != gone),
    st.sampled_from("abcdef"),
    st.integers(0, 99),
)


def is_near_duplicate(one, other, threshold=0.9):
    first, second = (set(word_pairs(normalize(text))) for text in (one, other))
    return len(first & second) >= threshold * len(first | second)


@settings(max_examples=40, derandomize=True)
@given(rows=st.lists(st.tuples(st.integers(0, 30).map("question {}".format), TEXTS), min_size=8, max_size=30))
def test_no_training_pair_is_a_near_duplicate_of_a_held_out_one(rows, tmp_path_factory):
    """Texts are compared one by one, independently of their groups."""
    folder = tmp_path_factory.mktemp("holdout")
    read = pairs_of(rows, folder)
    groups = find_groups(read, None, 0.9, folder / "texts")
    is_held_out, data = hold_out(read, groups, all_rows(read), spec(len(rows) // 2))
    remaining = [row for row, held in zip(rows, is_held_out, strict=True) if not held]
    held = [row for row, held in zip(rows, is_held_out, strict=True) if held]
    assert not {anchor for anchor, _ in remaining} & {anchor for anchor, _ in held}
    assert not any(is_near_duplicate(one, other) for _, one in remaining for _, other in held)
    assert not any(is_near_duplicate(one, other) for one, other in combinations(data.corpus.values(), 2)), (
        "one of each kind"
    )


def test_the_corpus_consists_of_held_out_positives_and_a_sample_of_others(pairs, tmp_path):
    read = pairs([(f"question {i}", f"answer {i} {i} {i}") for i in range(50)])
    groups = find_groups(read, None, 0.9, tmp_path / "texts")
    is_held_out, data = hold_out(read, groups, all_rows(read), spec(10, other_documents=7))
    assert len(data.corpus) == 10 + 7
    assert {data.corpus[document] for _, document in data.qrels} == {
        f"answer {i} {i} {i}" for i in np.flatnonzero(is_held_out)
    }


def test_the_same_seed_holds_out_the_same_rows():
    groups = np.arange(200).reshape(-1, 2)
    assert (
        choose_rows(groups, groups[:, 0], spec(10, seed=1)) == choose_rows(groups, groups[:, 0], spec(10, seed=1))
    ).all()
    assert (
        choose_rows(groups, groups[:, 0], spec(10, seed=1)) != choose_rows(groups, groups[:, 0], spec(10, seed=2))
    ).any()


@given(groups=GROUPS, max_queries=st.integers(1, 20))
def test_no_more_than_the_allowed_queries_are_held_out_and_whole_groups_of_them(groups, max_queries):
    held = choose_rows(groups, groups[:, 0], spec(len(groups) * 9 // 10, queries=max_queries))
    assert len(set(groups[held, 0].tolist())) <= max_queries
    assert not set(groups[held].ravel().tolist()) & set(groups[~held].ravel().tolist())


def test_a_limit_of_queries_counts_equal_anchors_once():
    anchors = np.arange(100) // 4
    groups = np.stack([anchors, 1000 + np.arange(100)], axis=1)
    assert choose_rows(groups, anchors, spec(50, queries=3)).sum() == 3 * 4
    assert choose_rows(groups, anchors, spec(50)).sum() == 12 * 4


def test_nothing_can_be_held_out_of_a_single_component():
    groups = np.stack([np.arange(20), np.full(20, 99)], axis=1)
    assert not choose_rows(groups, groups[:, 0], spec(2)).any()


def test_pairs_are_held_out_of_more_text_than_arrow_can_concatenate(huge, pairs, monkeypatch):
    monkeypatch.setattr("mnrl_job.deduplication.holdout.read_table", lambda _: huge)
    ids = np.arange(2 * huge.num_rows).reshape(-1, 2)
    read = replace(pairs([("q", "a")]), rows=huge.num_rows)
    is_held_out, data = hold_out(
        read, text_groups(ids), all_rows(read), spec(huge.num_rows // 10_000, other_documents=5)
    )
    assert [query[:4] for query in data.queries.values()] == [f"{row % 400:04}" for row in np.flatnonzero(is_held_out)]
    assert len(data.corpus) == is_held_out.sum() + 5
