"""Columns by name: names that differ only in case or whitespace, and columns that first appear late in a file."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnrl_job.data.columns import ColumnNames, find_columns
from mnrl_job.errors import DataError
from tests.data.reading import read
from tests.examples import write_jsonl


@pytest.mark.parametrize("other", ["Answer", " answer", "answer ", "ANSWER", "\ufeffanswer"])
@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.parquet"])
def test_the_column_with_the_exact_name_is_used_and_the_other_reported(tmp_path, name, other):
    columns = {"question": ["q"], other: ["wrong"], "answer": ["right"]}
    path = tmp_path / name
    if name == "p.csv":
        path.write_text(f"question,{other},answer\nq,wrong,right\n", encoding="utf-8")
    elif name == "p.jsonl":
        write_jsonl(path, [{key: values[0] for key, values in columns.items()}])
    else:
        pq.write_table(pa.table(columns), path)
    pairs, rows = read(tmp_path, path)
    assert rows == [{"anchor": "q", "positive": "right"}]
    assert pairs.sources[0].ignored_columns == (other,)


@pytest.mark.parametrize("names", [("question", "Answer", "ANSWER"), ("Anchor", "ANCHOR", "positive")])
def test_column_names_that_differ_only_in_case_are_refused_if_none_matches_exactly(names):
    alike = "', '".join(name for name in names if name.lower() in ("answer", "anchor"))
    with pytest.raises(DataError, match=f"p.csv: .*'{alike}'"):
        find_columns(names, ColumnNames(), "p.csv")


def test_of_negative_columns_that_differ_only_in_case_the_exact_match_is_used():
    assert find_columns(("anchor", "positive", "Negative", "negative"), ColumnNames(), "p").negatives == ("negative",)
    with pytest.raises(DataError, match=r"^p: .*'Negative', 'NEGATIVE'"):
        find_columns(("anchor", "positive", "Negative", "NEGATIVE"), ColumnNames(), "p")


def test_a_setting_prefers_the_column_with_the_exact_name():
    names = ("Title", "title", "Body", "BODY")
    configured = ColumnNames(anchor="title", positive="BODY")
    assert find_columns(names, configured, "p").names() == ("title", "BODY")
    with pytest.raises(DataError, match=r"^p: .*'Title', 'title'"):
        find_columns(names, ColumnNames(anchor="TITLE", positive="BODY"), "p")


@pytest.mark.parametrize(
    "name",
    [
        "negative",
        "negatives",
        "neg",
        "negative_2",
        "negative1",
        "negative-1",
        "neg_3",
        "hard_negative",
        "hard_negatives_1",
    ],
)
def test_the_usual_names_of_negatives_are_known(name):
    assert find_columns(("anchor", "positive", name), ColumnNames(), "p").negatives == (name,)


@pytest.mark.parametrize(
    ("name", "is_reported"),
    [("negative_passages", True), ("bm25_neg", True), ("neg_scores", False), ("neg_id", False), ("negotiable", False)],
)
def test_unused_columns_that_look_like_negatives_cause_a_warning(tmp_path, caplog, name, is_reported):
    read(tmp_path, write_jsonl(tmp_path / "p.jsonl", [{"anchor": "a", "positive": "b", name: "c"}]))
    assert ("MNRL_NEGATIVE_COLUMNS" in caplog.text) == is_reported


def test_a_column_unused_in_one_file_is_reported_even_if_another_file_uses_it(tmp_path):
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"question": "a", "answer": "b"}])
    write_jsonl(tmp_path / "in" / "b.jsonl", [{"anchor": "a", "positive": "b", "answer": "c"}])
    assert read(tmp_path, tmp_path / "in")[0].sources[0].ignored_columns == ("answer",)


def test_columns_are_those_of_all_rows_not_of_the_first(tmp_path):
    rows = [{"question": f"q{i}", "answer": "a"} for i in range(200)]
    path = write_jsonl(tmp_path / "p.jsonl", [*rows, {"question": "q", "answer": "a", "positive": "p"}])
    pairs, _ = read(tmp_path, path)
    assert (pairs.rows, pairs.sources[0].ignored_columns) == (201, ("positive",))


def test_a_message_names_thirty_columns_and_how_many_more():
    with pytest.raises(DataError, match=r"\bc0, .*\bc29 \w+ 170\b"):
        find_columns([f"c{i}" for i in range(200)], ColumnNames(), "p")
