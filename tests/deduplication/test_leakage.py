"""Training pairs that also occur in an eval set are found; others are left alone."""

from dataclasses import replace

import numpy as np
import pytest

from mnrl_job.data.evalset import EvalData, write_evalset
from mnrl_job.deduplication.groups import find_groups
from mnrl_job.deduplication.leakage import find_leaks, write_relevant_pairs
from tests.deduplication.rows import text_groups

QUERY = "how do i get the invoice of last month as a file by mail when it was sent to the wrong address before"
ANSWER = "every invoice is listed under billing with a link and can be had as a file by mail or by post at any time"


@pytest.fixture
def leaks(pairs, tmp_path):
    """Which rows leak, for each eval set."""

    def find(rows, *eval_sets, threshold=0.9):
        read = pairs(rows)
        relevant_pairs = write_relevant_pairs(eval_sets, tmp_path / "relevant.arrow")
        groups = find_groups(read, relevant_pairs.documents, threshold, tmp_path / "texts")
        masks = find_leaks(read, groups, relevant_pairs, threshold, tmp_path / "leaks")
        return [one.tolist() for one in masks]

    return find


ROWS = [
    (QUERY.upper(), ANSWER),
    (f"{QUERY} please", f"{ANSWER} you want"),
    (QUERY, "another answer, which no eval set has"),
    ("another question", ANSWER),
    ("another question", "another answer, which no eval set has"),
]


def test_a_pair_leaks_when_query_and_relevant_document_are_equal_or_nearly(leaks, evalset):
    assert leaks(ROWS, evalset("faq", [(QUERY, ANSWER)])) == [[True, True, False, False, False]]


def test_without_a_threshold_only_equal_pairs_leak(leaks, evalset):
    assert leaks(ROWS, evalset("faq", [(QUERY, ANSWER)]), threshold=None) == [[True, False, False, False, False]]


def test_a_pair_leaks_only_if_its_document_is_relevant_to_its_query(leaks, evalset):
    """The query's relevant document is another one, and the positive is not relevant to it."""
    one = evalset("faq", [(QUERY, "the other document"), ("unrelated question", ANSWER)], others=[ANSWER.upper()])
    assert leaks(ROWS, one) == [[False] * 5]


def test_without_candidates_nothing_leaks(leaks, evalset):
    assert leaks([("a question", "an answer")], evalset("faq", [("a question", "a document")])) == [[False]]


def test_other_spellings_of_a_leak_are_found(leaks, evalset):
    rows = [
        ("Ｆｏｒｇｏｔ  my\u00a0PASSWORD", "see “Settings”"),
        ("forgot my password?", "see settings!"),
        ("forgot", "see settings"),
    ]
    assert leaks(rows, evalset("faq", [("forgot my password", "See “settings”")])) == [[True, True, False]]


def test_an_eval_set_without_relevant_documents_cannot_leak(tmp_path):
    grades = {("q", "d"): 0}
    one = write_evalset("faq", "faq", tmp_path / "faq", EvalData({"q": QUERY}, {"d": ANSWER}, grades))
    assert write_relevant_pairs([one], tmp_path / "relevant.arrow") is None


def test_leaks_are_counted_by_eval_set(leaks, evalset):
    sets = [evalset("a", [("x", "y")]), evalset("b", [("x", "y"), (QUERY, ANSWER)]), evalset("c", [(QUERY, ANSWER)])]
    sets.append(evalset("d", [("x", "y")]))
    assert [sum(one) for one in leaks(ROWS, *sets)] == [0, 2, 2, 0]


def test_without_eval_sets_there_are_no_relevant_pairs(tmp_path):
    assert write_relevant_pairs((), tmp_path / "relevant.arrow") is None


def test_leaks_are_found_in_more_text_than_arrow_can_concatenate(huge, pairs, evalset, tmp_path, monkeypatch):
    eval_set = evalset("faq", [(huge["anchor"][7].as_py(), "d")])
    relevant_pairs = write_relevant_pairs([eval_set], tmp_path / "relevant.arrow")
    monkeypatch.setattr("mnrl_job.deduplication.leakage.read_table", lambda _: huge)
    read = replace(pairs([("q", "a")]), rows=huge.num_rows)
    positives = np.where(np.arange(huge.num_rows) % 1000 == 7, 1, 0)
    groups = replace(text_groups(np.empty((0, 2))), joint_positives=positives, joint_relevant=np.array([1]))
    (mask,) = find_leaks(read, groups, relevant_pairs, None, tmp_path / "leaks")
    assert np.flatnonzero(mask).tolist() == [row for row in range(7, huge.num_rows, 1000) if row % 400 == 7]
