"""Held-out groups: nothing that stands in the eval set, nor anything nearly equal, is trained on."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnrl_job.deduplication.groups import find_groups
from mnrl_job.deduplication.holdout import choose_rows, components, hold_out
from mnrl_job.deduplication.text_similarity import normalize, word_pairs
from mnrl_job.errors import DataError
from tests.deduplication.rows import pairs_of

GROUPS = st.lists(st.tuples(st.integers(0, 30), st.integers(20, 60)), min_size=10, max_size=120).map(np.array)
LONG = "every invoice is listed under billing with a link and can be had as a file by mail or by post at any time"


@given(groups=GROUPS, share=st.sampled_from([0.1, 0.3, 0.5]))
def test_no_group_stands_on_both_sides_and_the_share_is_kept(groups, share):
    try:
        held = choose_rows(groups, share, seed=1)
    except DataError:
        sizes = np.unique(components(groups), return_counts=True)[1]
        assert sizes.min() > len(groups) * share, "only where no set of rows is small enough"
        return
    assert 0 < held.sum() <= share * len(groups)
    assert not set(groups[held].ravel().tolist()) & set(groups[~held].ravel().tolist())


def test_rows_hang_together_by_anchor_by_positive_and_across():
    groups = np.array([(0, 10), (0, 11), (1, 11), (2, 12), (12, 13), (3, 14)])
    assert len(set(components(groups)[:3].tolist())) == 1
    assert components(groups)[3] == components(groups)[4], "a text that is a positive here and an anchor there"
    assert len(set(components(groups).tolist())) == 3


@pytest.fixture
def held(pairs, tmp_path):
    """Forty rows: twenty answers of two anchors each, every second answer nearly equal to the one before."""
    rows = [(f"question {i}", f"{LONG} {'abcdefghij'[i // 4] * 3} {i // 4} {'x' * (i // 2 % 2)}") for i in range(40)]
    rows = [(anchor, " ".join([positive] * 2)) for anchor, positive in rows]
    read = pairs(rows)
    found = find_groups(read, None, 0.9, tmp_path / "texts")
    return rows, found, hold_out(read, found.texts, found.groups, 0.2, seed=3)


def test_the_eval_set_is_made_of_what_was_held_out_and_of_other_documents(held):
    rows, found, out = held
    assert 0 < out.rows.sum() <= 8
    asked = [rows[row] for row in np.flatnonzero(out.rows)]
    assert set(out.queries.values()) == {anchor for anchor, _ in asked}
    judged = {(out.queries[query], out.corpus[document]) for query, document in out.grades}
    assert {anchor for anchor, _ in judged} == {anchor for anchor, _ in asked}
    assert len(out.corpus) == len(set(found.groups[:, 1].tolist())), "one document of each group"
    assert len(out.corpus) > len({document for _, document in out.grades}), "there is something to be wrong about"


def test_near_duplicates_of_what_is_held_out_are_held_out(held):
    _, found, out = held
    assert not set(found.groups[out.rows, 1].tolist()) & set(found.groups[~out.rows, 1].tolist())


# Those of one topic are alike, whichever word they lack.
TEXTS = st.builds(
    lambda topic, gone: " ".join(f"{topic}{i}" for i in range(100) if i != gone),
    st.sampled_from("abcdef"),
    st.integers(0, 99),
)


def alike(one, other, threshold=0.9):
    first, second = (set(word_pairs(normalize(text))) for text in (one, other))
    return len(first & second) >= threshold * len(first | second)


@settings(max_examples=40, derandomize=True)
@given(rows=st.lists(st.tuples(st.integers(0, 30).map("question {}".format), TEXTS), min_size=8, max_size=30))
def test_no_training_pair_is_like_a_held_out_one(rows, tmp_path_factory):
    """Compared text by text, without what grouped them."""
    folder = tmp_path_factory.mktemp("holdout")
    read = pairs_of(rows, folder)
    found = find_groups(read, None, 0.9, folder / "texts")
    try:
        out = hold_out(read, found.texts, found.groups, 0.5, seed=1)
    except DataError:
        return
    kept = [row for row, held in zip(rows, out.rows, strict=True) if not held]
    held = [row for row, held in zip(rows, out.rows, strict=True) if held]
    assert not {anchor for anchor, _ in kept} & {anchor for anchor, _ in held}
    assert not any(alike(one, other) for _, one in kept for _, other in held)
    assert not any(alike(one, other) for one, other in combinations(out.corpus.values(), 2)), "one of each kind"


def test_the_corpus_is_what_is_held_out_and_a_sample_of_the_rest(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("mnrl_job.deduplication.holdout.CORPUS_ROWS", 7)
    read = pairs([(f"question {i}", f"answer {i} {i} {i}") for i in range(50)])
    found = find_groups(read, None, 0.9, tmp_path / "texts")
    out = hold_out(read, found.texts, found.groups, 0.2, seed=1)
    assert len(out.corpus) == 10 + 7
    assert {out.corpus[document] for _, document in out.grades} == {
        f"answer {i} {i} {i}" for i in np.flatnonzero(out.rows)
    }


def test_the_same_seed_holds_out_the_same_rows():
    groups = np.arange(200).reshape(-1, 2)
    assert (choose_rows(groups, 0.1, 1) == choose_rows(groups, 0.1, 1)).all()
    assert (choose_rows(groups, 0.1, 1) != choose_rows(groups, 0.1, 2)).any()


def test_where_everything_hangs_together_nothing_can_be_held_out():
    with pytest.raises(DataError, match=r"^MNRL_HOLDOUT_RATIO=0\.1: .*\b20 rows.*MNRL_EVAL_DATA"):
        choose_rows(np.stack([np.arange(20), np.full(20, 99)], axis=1), 0.1, 1)


def test_pairs_are_taken_from_more_text_than_arrow_can_join(huge, pairs, monkeypatch):
    monkeypatch.setattr("mnrl_job.deduplication.holdout.read_table", lambda _: huge)
    monkeypatch.setattr("mnrl_job.deduplication.holdout.CORPUS_ROWS", 5)
    numbers = np.arange(2 * huge.num_rows).reshape(-1, 2)
    out = hold_out(pairs([("q", "a")]), numbers, numbers, 1e-4, seed=1)
    assert [query[:4] for query in out.queries.values()] == [f"{row % 400:04}" for row in np.flatnonzero(out.rows)]
    assert len(out.corpus) == out.rows.sum() + 5
