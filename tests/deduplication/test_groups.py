"""Groups of equal texts and near-duplicates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.data.tables import NO_GROUP, write_columns
from mnrl_job.deduplication.groups import find_groups, without_contradictions
from mnrl_job.deduplication.minhash import Column
from mnrl_job.deduplication.text_similarity import normalize
from tests.deduplication.rows import LONG, pairs_of

WORDS = st.sampled_from(["alpha", "Alpha", " beta", "beta", "gamma", "delta", "épsilon", "e\u0301psilon"])


@pytest.fixture
def group(pairs, tmp_path):
    return lambda rows, threshold=0.9, relevant=None: find_groups(pairs(rows), relevant, threshold, tmp_path / "texts")


@given(rows=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=12))
def test_equal_texts_have_equal_group_ids_in_all_columns(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    groups = find_groups(pairs_of(rows, folder), None, None, folder / "texts").group_ids
    cells = [
        (normalize(text), group_id)
        for row, row_groups in zip(rows, groups.tolist(), strict=True)
        for text, group_id in zip(row, row_groups, strict=True)
    ]
    assert len(set(cells)) == len({text for text, _ in cells}) == len({group_id for _, group_id in cells})
    assert groups.max() + 1 == len({group_id for _, group_id in cells}), "without gaps"


def test_near_duplicate_documents_are_one_group_and_near_duplicate_anchors_are_not(group):
    groups = group([(f"{LONG} a", f"{LONG} now"), (f"{LONG} b", f"{LONG} later")]).group_ids
    assert groups[0, 1] == groups[1, 1]
    assert groups[0, 0] != groups[1, 0]


def test_an_anchor_that_is_a_document_elsewhere_is_in_its_group(group):
    groups = group([(f"{LONG} now", "answer"), ("question", f"{LONG} NOW"), ("other", f"{LONG} later")]).group_ids
    assert groups[0, 0] == groups[1, 1] == groups[2, 1]


def test_a_negative_equal_to_another_rows_positive_is_in_its_group(group):
    grouped = group([("q1", f"{LONG} now"), ("q2", "answer", "nothing", f"{LONG} later"), ("q3", "other", "ANSWER")])
    assert grouped.negatives.values[1:].tolist() == [grouped.group_ids[0, 1], grouped.group_ids[1, 1]]
    assert grouped.negatives.values[0] not in grouped.group_ids


def test_rows_may_have_any_number_of_negatives(group):
    grouped = group([("q1", "a1"), ("q2", "a2", *(f"n{i}" for i in range(400))), ("q3", "a3", "n1")])
    assert grouped.negatives.counts.tolist() == [0, 400, 1]
    assert grouped.negatives.values[400] == grouped.negatives.values[1]
    assert len({*grouped.negatives.values.tolist(), *grouped.group_ids.ravel().tolist()}) == 406
    assert not grouped.contradictions.any()


def test_only_a_negative_equal_to_a_positive_of_its_anchor_contradicts(group):
    rows = [
        ("q1", "a1", "A2"),  # the second row's positive
        ("Q1", "a2", "a1"),  # the first row's
        ("q2", "a3", "a1"),  # of another anchor
        ("q3", "a4", "a4"),  # its own positive
        ("q4", f"{LONG} now", f"{LONG} never"),  # worded nearly as its own positive, on purpose
    ]
    grouped = group(rows)
    assert grouped.contradictions.tolist() == [True, True, False, True, False]
    assert (without_contradictions(grouped).values == NO_GROUP).tolist() == [True, True, False, True, False]
    assert (grouped.negatives.values >= 0).all(), "the groups are unchanged"


CELLS = st.sampled_from(["alpha", "ALPHA", "beta", "gamma"])
ROWS = st.tuples(CELLS, CELLS, st.lists(CELLS, max_size=3)).map(lambda row: (row[0], row[1], *row[2]))


@given(rows=st.lists(ROWS, min_size=1, max_size=12))
def test_contradictions_are_those_of_a_naive_search(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contradictions")
    grouped = find_groups(pairs_of(rows, folder), None, 0.9, folder / "texts")
    positives = {(normalize(anchor), normalize(positive)) for anchor, positive, *_ in rows}
    expected = [(normalize(row[0]), normalize(negative)) in positives for row in rows for negative in row[2:]]
    assert grouped.contradictions.tolist() == expected
    assert (without_contradictions(grouped).values == NO_GROUP).tolist() == expected


def test_eval_documents_do_not_change_the_groups(group, tmp_path):
    """Two positives that are no near-duplicates, and a relevant document similar to both."""
    rows = [("q1", " ".join(f"word{i}" for i in range(60))), ("q2", " ".join(f"word{i}" for i in range(6, 66)))]
    eval_document = " ".join(f"word{i}" for i in range(3, 63))
    write_columns(tmp_path / "relevant.arrow", document=[eval_document])
    without_eval_documents = group(rows, 0.88).group_ids
    grouped = group(rows, 0.88, Column(tmp_path / "relevant.arrow", "document"))
    assert grouped.group_ids.tolist() == without_eval_documents.tolist()
    assert grouped.group_ids[0, 1] != grouped.group_ids[1, 1]
    assert grouped.joint_positives[0] == grouped.joint_positives[1] == grouped.joint_relevant[0]


def test_without_a_threshold_near_duplicates_are_in_different_groups(group):
    groups = group([("q1", f"{LONG} now"), ("q2", f"{LONG} later"), ("q3", f"{LONG.upper()} now")], None).group_ids
    assert groups[0, 1] != groups[1, 1]
    assert groups[0, 1] == groups[2, 1]
