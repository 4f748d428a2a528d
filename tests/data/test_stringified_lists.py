"""Lists written as text in a table."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnrl_job.data.stringified_lists import parse_list, stringified_type
from mnrl_job.errors import DataError
from tests.data.reading import read
from tests.examples import write_jsonl

TEXTS = ["it's", 'say "x"', "a, b", "é\n[1]", "c\\d"]
WRITERS = [str, json.dumps, lambda texts: str(np.array(texts)), lambda texts: repr(np.array(texts, dtype=object))]
WRITERS += [
    lambda texts: json.dumps(texts, indent=1),
    lambda texts: str(tuple(texts)),
    lambda texts: str(np.array(texts, dtype=object)),
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], ["a", "b"]])
def test_stringified_lists_of_common_programs_are_parsed(write, texts):
    assert parse_list(write(texts)) == texts
    assert stringified_type(f" {write(texts)}\n") == "list"


def test_a_list_in_json_is_read_by_the_rules_of_json():
    assert parse_list(r'["a\/b", "\ud83d\ude00"]') == ["a/b", "😀"]


@pytest.mark.parametrize(
    "text",
    [
        "[1] see manual",
        "[unused]",
        "[1]",
        "(see 'a')",
        "('a')",
        "['a', 'b'] and more",
        "['a'",
        "[CLS] a",
        "{a b}",
        "array",
        "",
        "b",
    ],
)
def test_texts_that_only_begin_like_a_list_stay_texts(text):
    assert stringified_type(text) is None


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("b'a'", "bytes"),
        ("{'text': 'a'}", "object"),
        ('{"text": "a"}', "object"),
        ("[{'text': 'a'}]", "object"),
        ("[['a']]", "object"),
        ("['a', nan]", "list"),
        ("[None]", "list"),
        ("[]", "list"),
    ],
)
def test_other_stringified_values_are_recognized(text, form):
    assert stringified_type(text) == form


def table(path, rows):
    names = ("query", "pos", "neg")
    if path.suffix == ".jsonl":
        return write_jsonl(path, [dict(zip(names, row, strict=True)) for row in rows])
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), path)
        return path
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([names, *rows])
    return path


@pytest.mark.parametrize("name", ["l.csv", "l.tsv", "l.jsonl", "l.parquet"])
@pytest.mark.parametrize("write", [str, json.dumps])
def test_a_column_of_stringified_lists_is_read_as_lists_with_a_warning(tmp_path, caplog, name, write):
    path = table(tmp_path / name, [(f"q{i}", write([f"p{i}", f"r{i}"]), write(["n", "m"])) for i in range(3)])
    pairs, rows = read(tmp_path, path)
    assert rows[:2] == [{"anchor": "q0", "positive": one, "negatives": ["n", "m"]} for one in ("p0", "r0")]
    assert (pairs.rows_read, pairs.rows) == (3, 6)
    assert sum("read as lists" in note for note in pairs.sources[0].notes) == 2
    assert caplog.text.count("read as lists") == 2


def test_a_text_in_a_column_of_stringified_lists_is_a_bad_row(tmp_path):
    rows = [("q", "['p']", "['n']"), ("q", "['p', nan]", "['n']"), ("q", "a text", "['n']"), ("q", "['p']", "")] * 2
    pairs, taken = read(tmp_path, table(tmp_path / "l.csv", rows), max_bad_row_ratio=0.5)
    assert (pairs.rejected, len(taken)) == ({"not a list": 4}, 4)
    assert pairs.bad_rows[0].where == f"{tmp_path}/l.csv:3"


def test_a_few_stringified_lists_among_texts_stay_texts_with_a_warning(tmp_path, caplog):
    rows = [(f"q{i}", "['a', 'b']" if i == 150 else f"text {i}", "n") for i in range(200)]
    _, taken = read(tmp_path, table(tmp_path / "l.csv", rows))
    assert len(taken) == 200
    assert f"{tmp_path}/l.csv:152: a list stored as text in column pos, in 1 rows; it is read as texts" in caplog.text


@pytest.mark.parametrize(
    ("row", "column"),
    [(("['q']", "p", "n"), "query"), (("q", "b'p'", "n"), "pos"), (("q", "p", "{'text': 'n'}"), "neg")],
)
def test_stringified_values_that_cannot_be_read_as_text_are_refused(tmp_path, row, column):
    with pytest.raises(DataError, match=rf"l\.csv:2: .*\bcolumn {column}\b.*\b2 rows"):
        read(tmp_path, table(tmp_path / "l.csv", [row, row]))
