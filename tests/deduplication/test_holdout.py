"""Held-out pairs: no text of the eval set, nor a near-duplicate, is trained on."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnrl_job.deduplication.groups import find_groups
from mnrl_job.deduplication.holdout import HoldoutLimits, choose_rows, find_components, hold_out
from mnrl_job.deduplication.text_similarity import normalize, word_pairs
from mnrl_job.errors import DataError
from tests.deduplication.rows import LONG, pairs_of, text_groups

GROUPS = st.lists(st.tuples(st.integers(0, 30), st.integers(20, 60)), min_size=10, max_size=120).map(np.array)


@given(groups=GROUPS, ratio=st.sampled_from([0.1, 0.3, 0.5]))
def test_no_group_is_both_held_out_and_trained_on_and_the_ratio_is_respected(groups, ratio):
    try:
        held = choose_rows(groups, groups[:, 0], HoldoutLimits(ratio, 1000), seed=1)
    except DataError:
        sizes = np.unique(find_components(groups), return_counts=True)[1]
        assert sizes.min() > len(groups) * ratio, "only where no set of rows is small enough"
        return
    assert 0 < held.sum() <= ratio * len(groups)
    assert not set(groups[held].ravel().tolist()) & set(groups[~held].ravel().tolist())


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
    return rows, groups, hold_out(read, groups, HoldoutLimits(0.2, 1000), seed=3)


def test_the_eval_set_consists_of_held_out_pairs_and_other_documents(held_out_pairs):
    rows, groups, held_out = held_out_pairs
    assert 0 < held_out.rows.sum() <= 8
    held_out_rows = [rows[row] for row in np.flatnonzero(held_out.rows)]
    assert set(held_out.data.queries.values()) == {anchor for anchor, _ in held_out_rows}
    judged = {(held_out.data.queries[query], held_out.data.corpus[document]) for query, document in held_out.data.qrels}
    assert {anchor for anchor, _ in judged} == {anchor for anchor, _ in held_out_rows}
    assert len(held_out.data.corpus) == len(set(groups.group_ids[:, 1].tolist())), "one document of each group"
    assert len(held_out.data.corpus) > len({document for _, document in held_out.data.qrels}), "there are distractors"


def test_near_duplicates_of_held_out_texts_are_held_out(held_out_pairs):
    _, groups, held_out = held_out_pairs
    assert not set(groups.group_ids[held_out.rows, 1].tolist()) & set(groups.group_ids[~held_out.rows, 1].tolist())


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
    try:
        held_out = hold_out(read, groups, HoldoutLimits(0.5, 1000), seed=1)
    except DataError:
        return
    remaining = [row for row, held in zip(rows, held_out.rows, strict=True) if not held]
    held = [row for row, held in zip(rows, held_out.rows, strict=True) if held]
    assert not {anchor for anchor, _ in remaining} & {anchor for anchor, _ in held}
    assert not any(is_near_duplicate(one, other) for _, one in remaining for _, other in held)
    assert not any(is_near_duplicate(one, other) for one, other in combinations(held_out.data.corpus.values(), 2)), (
        "one of each kind"
    )


def test_the_corpus_consists_of_held_out_positives_and_a_sample_of_others(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("mnrl_job.deduplication.holdout.MAX_OTHER_DOCUMENTS", 7)
    read = pairs([(f"question {i}", f"answer {i} {i} {i}") for i in range(50)])
    groups = find_groups(read, None, 0.9, tmp_path / "texts")
    held_out = hold_out(read, groups, HoldoutLimits(0.2, 1000), seed=1)
    assert len(held_out.data.corpus) == 10 + 7
    assert {held_out.data.corpus[document] for _, document in held_out.data.qrels} == {
        f"answer {i} {i} {i}" for i in np.flatnonzero(held_out.rows)
    }


def test_the_same_seed_holds_out_the_same_rows():
    groups = np.arange(200).reshape(-1, 2)
    first, again, other = (choose_rows(groups, groups[:, 0], HoldoutLimits(0.1, 1000), seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@given(groups=GROUPS, max_queries=st.integers(1, 20))
def test_no_more_than_the_allowed_queries_are_held_out_and_whole_groups_of_them(groups, max_queries):
    try:
        held = choose_rows(groups, groups[:, 0], HoldoutLimits(0.9, max_queries), seed=1)
    except DataError:
        return
    assert 0 < len(set(groups[held, 0].tolist())) <= max_queries
    assert not set(groups[held].ravel().tolist()) & set(groups[~held].ravel().tolist())


def test_a_limit_of_queries_counts_equal_anchors_once():
    anchors = np.arange(100) // 4
    groups = np.stack([anchors, 1000 + np.arange(100)], axis=1)
    assert choose_rows(groups, anchors, HoldoutLimits(0.5, 3), seed=1).sum() == 3 * 4
    assert choose_rows(groups, anchors, HoldoutLimits(0.5, 1000), seed=1).sum() == 12 * 4


def test_nothing_can_be_held_out_of_a_single_component():
    with pytest.raises(DataError, match=r"^MNRL_HOLDOUT_RATIO=0\.1, MNRL_HOLDOUT_MAX_QUERIES=1000: .*\b20 rows"):
        choose_rows(np.stack([np.arange(20), np.full(20, 99)], axis=1), np.arange(20), HoldoutLimits(0.1, 1000), 1)


def test_pairs_are_held_out_of_more_text_than_arrow_can_concatenate(huge, pairs, monkeypatch):
    monkeypatch.setattr("mnrl_job.deduplication.holdout.read_table", lambda _: huge)
    monkeypatch.setattr("mnrl_job.deduplication.holdout.MAX_OTHER_DOCUMENTS", 5)
    ids = np.arange(2 * huge.num_rows).reshape(-1, 2)
    held_out = hold_out(pairs([("q", "a")]), text_groups(ids), HoldoutLimits(1e-4, 1000), seed=1)
    assert [query[:4] for query in held_out.data.queries.values()] == [
        f"{row % 400:04}" for row in np.flatnonzero(held_out.rows)
    ]
    assert len(held_out.data.corpus) == held_out.rows.sum() + 5
