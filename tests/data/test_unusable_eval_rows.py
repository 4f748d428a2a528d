"""Unusable rows of an eval set are named, and left out as far as MNRL_MAX_BAD_ROW_RATIO allows."""

import pytest

from mnrl_job.errors import DataError
from tests.data.eval_sets import CORPUS, QUERIES, as_json, beir, content, read
from tests.examples import write_jsonl

UNUSABLE = [
    ({"_id": 1.5, "text": "x"}, "not text", "_id is of type float"),
    ({"_id": True, "text": "x"}, "not text", "_id is of type bool"),
    ({"_id": None, "text": "x"}, "not text", "_id is of type null"),
    ({"id": "d3", "text": "x"}, "missing column", "_id; found id, text"),
    ({"_id": "d3", "title": 4, "text": "x"}, "not text", "title of 'd3' is of type int"),
    ({"_id": "d3", "title": ["T"], "text": "x"}, "not text", "title of 'd3' is of type list"),
    ({"_id": "d3", "title": "T"}, "missing column", "text of 'd3'; found _id, title"),
    ({"_id": "d3", "text": None}, "null", "text of 'd3'"),
    ({"_id": "d3", "text": float("nan")}, "null", "text of 'd3'"),
    ({"_id": "d3", "text": 8}, "not text", "text of 'd3' is of type int"),
    ({"_id": "d3", "text": "\n "}, "empty", "text of 'd3'"),
    ({"_id": "d1", "text": "again"}, "duplicate id", "'d1'; ids must be unique"),
]


@pytest.mark.parametrize(("row", "reason", "detail"), UNUSABLE)
def test_an_unusable_document_is_named_and_left_out_if_the_ratio_allows(tmp_path, row, reason, detail):
    folder = beir(tmp_path / "set")
    rows = [{"_id": key, "text": text} for key, text in CORPUS.items()]
    write_jsonl(folder / "corpus.jsonl", [*rows, row])
    with pytest.raises(DataError) as caught:
        read(folder, tmp_path / "out")
    message = f"{folder}/corpus.jsonl:3: {reason} ({detail}"
    assert str(caught.value).startswith(message)
    assert "1 of 3 documents" in str(caught.value)
    assert "MNRL_MAX_BAD_ROW_RATIO=0.34 " in str(caught.value)
    with pytest.raises(DataError):
        read(folder, tmp_path / "out", 0.333)
    eval_set = read(folder, tmp_path / "out", 0.3334)
    assert (eval_set.documents, eval_set.rejected) == (2, {reason: 1})
    assert [(bad.where, bad.reason) for bad in eval_set.bad_rows] == [(f"{folder}/corpus.jsonl:3", reason)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1\td777\t1", "unknown id"),
        ("q777\td1\t1", "unknown id"),
        ("q1\td1\t0.5", "invalid score"),
        ("q1\td1\t1", "contradiction"),
        ("q1\td1", "wrong number of fields"),
    ],
)
def test_an_unusable_judgment_is_left_out_if_the_ratio_allows(tmp_path, line, reason):
    folder = beir(tmp_path / "set", f"q1\td1\t2\nq2\td2\t1\n{line}\n")
    eval_set = read(folder, tmp_path / "out", 0.4)
    assert content(eval_set)["qrels"] == content(read(beir(tmp_path / "sound"), tmp_path / "o"))["qrels"]
    assert eval_set.rejected == {reason: 1}
    assert eval_set.bad_rows[0].where == f"{folder}/qrels/test.tsv:4"


def test_each_part_is_checked_by_itself_and_judgments_of_unusable_documents_are_counted(tmp_path, caplog):
    corpus = CORPUS | {f"x{i}": "more" for i in range(18)}
    folder = beir(tmp_path / "set", "q1\td1\t1\nq2\td2\t1\n", corpus=corpus | {"d2": ""})
    with pytest.raises(DataError, match=r"test\.tsv:3: unknown id \(.*\bdocument 'd2'\).*\b1 of 2 judgments"):
        read(folder, tmp_path / "out", 0.1)
    eval_set = read(folder, tmp_path / "out", 0.5)
    assert (eval_set.queries, eval_set.documents, eval_set.unjudged_queries) == (1, 19, 1)
    assert eval_set.rejected == {"empty": 1, "unknown id": 1}
    assert f"{folder}/corpus.jsonl:2: empty (text of 'd2')" in caplog.text
    assert "skipped 1 of 20 documents of set as unusable: 1 empty" in caplog.text


def test_unusable_rows_of_a_json_file_are_named_and_left_out(tmp_path):
    relevant = {"q1": {"d1": 1, "d7": 1}, "q2": ["d2"], "q3": "d1"}
    path = as_json(tmp_path / "s.json", QUERIES, CORPUS | {"d3": "", "d4": None, "d5": 5}, relevant)
    with pytest.raises(DataError, match=r"s\.json: empty \(corpus\['d3'\]\).*\b3 of 5 documents"):
        read(path, tmp_path / "out", 0.1)
    eval_set = read(path, tmp_path / "out", 0.6)
    assert eval_set.rejected == {"empty": 1, "null": 1, "not text": 1, "unknown id": 1, "invalid judgments": 1}
    assert (eval_set.queries, eval_set.documents, eval_set.judgements) == (2, 2, 2)


def test_a_part_without_usable_rows_is_refused_whatever_ratio_is_allowed(tmp_path):
    with pytest.raises(DataError, match=r"corpus\.jsonl:1: empty .*\b2 of 2 documents (?!.*MNRL_MAX_BAD_ROW_RATIO=)"):
        read(beir(tmp_path / "set", corpus={"d1": "", "d2": ""}), tmp_path / "out", 1.0)


def test_missing_values_in_an_eval_set_cause_a_warning_with_the_first(tmp_path, caplog):
    corpus = CORPUS | {"d3": "nan", "d4": " N/A ", "d5": "nan bread"}
    assert read(beir(tmp_path / "set", corpus=corpus), tmp_path / "out").documents == 5
    assert "documents of set: 2 texts look like missing values (first: 'nan', id 'd3')" in (caplog.text)
    assert "queries of set" not in caplog.text
