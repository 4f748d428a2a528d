"""Queries that are also in the corpus are not ranked for themselves."""

import pytest

from mnrl_job.errors import DataError
from tests.data.eval_sets import CORPUS, QUERIES, as_json, beir, content, read
from tests.examples import write_jsonl


def ranked_without(eval_set):
    """The queries that are excluded from their own rankings."""
    return [row["id"] for row in content(eval_set)["queries"] if row["in_corpus"]]


@pytest.mark.parametrize(
    ("document", "is_the_query"),
    [
        ({"text": "What is it?"}, True),
        ({"title": "", "text": " what  IS it? "}, True),
        ({"title": "A motion", "text": "What is it?"}, True),
        ({"title": "What", "text": "is it?"}, True),
        ({"title": float("nan"), "text": "What is it?"}, True),
        ({"text": "What was it?"}, False),
        ({"title": "What is it?", "text": "A thing."}, False),
    ],
)
def test_a_document_is_the_query_where_id_and_text_are_the_same(tmp_path, document, is_the_query):
    folder = beir(tmp_path / "set", "q1\td2\t1\nq2\td2\t1\n", queries=QUERIES | {"q1": "What is it?"})
    write_jsonl(folder / "corpus.jsonl", [{"_id": "q1"} | document, {"_id": "d2", "text": "What is it?"}])
    eval_set = read(folder, tmp_path / "out")
    assert ranked_without(eval_set) == (["q1"] if is_the_query else [])
    assert (eval_set.own_documents, eval_set.documents) == (int(is_the_query), 2)


def test_a_json_file_has_documents_that_are_queries_too(tmp_path):
    relevant = {"q1": {"d1": 1, "q1": 1}, "q2": {"q2": 1}, "d1": ["d1"]}
    path = as_json(tmp_path / "s.json", QUERIES | {"d1": "first?"}, CORPUS | QUERIES, relevant)
    eval_set = read(path, tmp_path / "out")
    # What is judged relevant to itself only has no answer left; ids that are equal by chance mean nothing.
    assert [row["id"] for row in content(eval_set)["queries"]] == ["q1", "d1"]
    assert [(row["query"], row["document"]) for row in content(eval_set)["qrels"]] == [("q1", "d1"), ("d1", "d1")]
    assert (ranked_without(eval_set), eval_set.unjudged_queries, eval_set.judgements) == (["q1"], 1, 2)


def test_an_eval_set_whose_queries_are_relevant_only_to_themselves_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"s\.json: .* above 0"):
        read(as_json(tmp_path / "s.json", corpus=QUERIES, relevant={"q1": ["q1"]}), tmp_path / "out")
