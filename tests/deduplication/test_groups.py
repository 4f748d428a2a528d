"""A number for each text: what shares one must not meet in a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.data.tables import NO_GROUP, write_columns
from mnrl_job.deduplication.groups import find_groups, without_contradictions
from mnrl_job.deduplication.minhash import Column
from mnrl_job.deduplication.text_similarity import normalize
from tests.deduplication.rows import pairs_of

LONG = "every invoice is listed under billing with a link and can be had as a file by mail or by post at any time"
WORDS = st.sampled_from(["alpha", "Alpha", " beta", "beta", "gamma", "delta", "épsilon", "e\u0301psilon"])


@pytest.fixture
def found(pairs, tmp_path):
    return lambda rows, threshold=0.9, relevant=None: find_groups(pairs(rows), relevant, threshold, tmp_path / "texts")


@given(rows=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=12))
def test_equal_texts_have_equal_numbers_in_whatever_column(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    groups = find_groups(pairs_of(rows, folder), None, None, folder / "texts").groups
    cells = [
        (normalize(text), group)
        for row, numbers in zip(rows, groups.tolist(), strict=True)
        for text, group in zip(row, numbers, strict=True)
    ]
    assert len(set(cells)) == len({text for text, _ in cells}) == len({group for _, group in cells})
    assert groups.max() + 1 == len({group for _, group in cells}), "without gaps"


def test_near_duplicate_documents_are_one_group_and_near_duplicate_anchors_are_not(found):
    groups = found([(f"{LONG} a", f"{LONG} now"), (f"{LONG} b", f"{LONG} later")]).groups
    assert groups[0, 1] == groups[1, 1]
    assert groups[0, 0] != groups[1, 0]


def test_an_anchor_that_is_a_document_elsewhere_is_of_its_group(found):
    groups = found([(f"{LONG} now", "answer"), ("question", f"{LONG} NOW"), ("other", f"{LONG} later")]).groups
    assert groups[0, 0] == groups[1, 1] == groups[2, 1]


def test_a_negative_that_answers_another_row_is_of_that_rows_group(found):
    numbers = found([("q1", f"{LONG} now"), ("q2", "answer", "nothing", f"{LONG} later"), ("q3", "other", "ANSWER")])
    assert numbers.negatives.values[1:].tolist() == [numbers.groups[0, 1], numbers.groups[1, 1]]
    assert numbers.negatives.values[0] not in numbers.groups


def test_rows_may_have_any_number_of_negatives(found):
    numbers = found([("q1", "a1"), ("q2", "a2", *(f"n{i}" for i in range(400))), ("q3", "a3", "n1")])
    assert numbers.negatives.counts.tolist() == [0, 400, 1]
    assert numbers.negatives.values[400] == numbers.negatives.values[1]
    assert len({*numbers.negatives.values.tolist(), *numbers.groups.ravel().tolist()}) == 406
    assert not numbers.contradictions.any()


def test_only_a_negative_equal_to_a_positive_of_its_anchor_contradicts(found):
    rows = [
        ("q1", "a1", "A2"),  # the second row's positive
        ("Q1", "a2", "a1"),  # the first row's
        ("q2", "a3", "a1"),  # of another anchor
        ("q3", "a4", "a4"),  # its own positive
        ("q4", f"{LONG} now", f"{LONG} never"),  # worded nearly as its own positive, on purpose
    ]
    numbers = found(rows)
    assert numbers.contradictions.tolist() == [True, True, False, True, False]
    assert (without_contradictions(numbers).values == NO_GROUP).tolist() == [True, True, False, True, False]
    assert (numbers.negatives.values >= 0).all(), "what was found stays as it was"


CELLS = st.sampled_from(["alpha", "ALPHA", "beta", "gamma"])
ROWS = st.tuples(CELLS, CELLS, st.lists(CELLS, max_size=3)).map(lambda row: (row[0], row[1], *row[2]))


@given(rows=st.lists(ROWS, min_size=1, max_size=12))
def test_contradictions_are_those_one_finds_by_looking(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contradictions")
    found = find_groups(pairs_of(rows, folder), None, 0.9, folder / "texts")
    taught = {(normalize(anchor), normalize(positive)) for anchor, positive, *_ in rows}
    torn = [(normalize(row[0]), normalize(negative)) in taught for row in rows for negative in row[2:]]
    assert found.contradictions.tolist() == torn
    assert (without_contradictions(found).values == NO_GROUP).tolist() == torn


def test_eval_documents_do_not_change_the_groups(found, tmp_path):
    """Two positives that differ too much, and a relevant document between them."""
    rows = [("q1", " ".join(f"word{i}" for i in range(60))), ("q2", " ".join(f"word{i}" for i in range(6, 66)))]
    between = " ".join(f"word{i}" for i in range(3, 63))
    write_columns(tmp_path / "judged.arrow", document=[between])
    apart = found(rows, 0.88).groups
    numbers = found(rows, 0.88, Column(tmp_path / "judged.arrow", "document"))
    assert numbers.groups.tolist() == apart.tolist()
    assert numbers.groups[0, 1] != numbers.groups[1, 1]
    assert numbers.positives[0] == numbers.positives[1] == numbers.relevant[0]


def test_without_a_threshold_near_duplicates_are_apart(found):
    groups = found([("q1", f"{LONG} now"), ("q2", f"{LONG} later"), ("q3", f"{LONG.upper()} now")], None).groups
    assert groups[0, 1] != groups[1, 1]
    assert groups[0, 1] == groups[2, 1]
