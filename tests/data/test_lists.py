"""Lists of positives and negatives: each positive gives a pair, with all negatives of its row."""

import gzip
import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.data.blanks import is_blank
from mnrl_job.data.tables import read_table
from mnrl_job.errors import DataError
from tests.data.reading import read
from tests.examples import write_jsonl

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: not is_blank(text)
)
LINES = st.lists(
    st.fixed_dictionaries(
        {"query": TEXT, "pos": st.lists(TEXT, min_size=1, max_size=4)},
        optional={"neg": st.lists(TEXT, max_size=4) | st.none()},
    ),
    min_size=1,
    max_size=12,
)


def expected(lines):
    given = any(line.get("neg") for line in lines)
    rows = []
    for line in lines:
        negatives = {"negatives": [text.strip() for text in line.get("neg") or []]} if given else {}
        rows += [{"anchor": line["query"].strip(), "positive": text.strip()} | negatives for text in line["pos"]]
    return rows


@given(lines=LINES)
def test_lists_are_read_back_as_a_row_for_each_positive_with_all_negatives(lines):
    with TemporaryDirectory() as folder:
        path = write_jsonl(Path(folder) / "lists.jsonl", lines)
        pairs, rows = read(Path(folder), path)
    assert rows == expected(lines)
    assert (pairs.rows_read, pairs.rows) == (len(lines), len(rows))
    assert not pairs.sources[0].ignored_columns


@given(lines=LINES)
def test_lists_in_parquet_and_in_compressed_files_give_the_same_pairs(lines):
    with TemporaryDirectory() as folder:
        schema = pa.schema([("query", pa.string()), ("pos", pa.list_(pa.string())), ("neg", pa.list_(pa.string()))])
        pq.write_table(pa.Table.from_pylist(lines, schema), Path(folder) / "lists.parquet")
        packed = Path(folder) / "lists.jsonl.gz"
        packed.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
        assert read(Path(folder), Path(folder) / "lists.parquet")[1] == expected(lines)
        assert read(Path(folder), packed)[1] == expected(lines)


def test_any_positive_or_negative_column_may_hold_lists_or_single_texts(tmp_path):
    path = write_jsonl(
        tmp_path / "p.jsonl",
        [
            {"anchor": "a", "positive": "p", "negative": "n"},
            {"anchor": "b", "positive": ["p1", "p2"], "negative": ["n1", "n2"]},
            {"anchor": "c", "positive": ["p3"], "negative": []},
        ],
    )
    pairs, rows = read(tmp_path, path)
    assert [tuple(row.values()) for row in rows] == [
        ("a", "p", ["n"]),
        ("b", "p1", ["n1", "n2"]),
        ("b", "p2", ["n1", "n2"]),
        ("c", "p3", []),
    ]
    assert pairs.sources[0].columns == {"anchor": "anchor", "positive": "positive", "negative_1": "negative"}


def test_lists_of_negatives_and_single_negatives_can_be_combined(tmp_path):
    row = {"question": "a", "answer": "p", "negative_1": "n1", "negatives": ["n2", "n3"], "other": ["o1", "o2"]}
    path = write_jsonl(tmp_path / "p.jsonl", [row])
    assert [*read(tmp_path, path)[1][0].values()] == ["a", "p", ["n2", "n3", "n1"]]
    named = read(tmp_path, path, positive_column="other", negative_columns=("negatives",))[1]
    assert [tuple(row.values()) for row in named] == [("a", "o1", ["n2", "n3"]), ("a", "o2", ["n2", "n3"])]


def test_negatives_that_only_a_late_line_has_are_found(tmp_path):
    lines = [{"query": f"q{i}", "pos": ["p"]} for i in range(300)]
    path = write_jsonl(tmp_path / "p.jsonl", [*lines, {"query": "last", "pos": ["p"], "neg": ["n1", "n2"]}])
    pairs, rows = read(tmp_path, path)
    assert [*rows[0].values()] == ["q0", "p", []]
    assert [*rows[-1].values()] == ["last", "p", ["n1", "n2"]]
    assert not pairs.sources[0].ignored_columns


def test_sources_may_differ_in_their_number_of_negatives_and_the_log_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO, "mnrl_job")
    pairs_file = write_jsonl(tmp_path / "pairs.jsonl", [{"anchor": "a", "positive": "b", "negative": "c"}])
    lists = write_jsonl(
        tmp_path / "lists.jsonl", [{"query": "q", "pos": ["p"]}, {"query": "r", "pos": ["s"], "neg": ["1", "2", "3"]}]
    )
    _, rows = read(tmp_path, pairs_file, lists)
    assert [tuple(row.values()) for row in rows] == [
        ("a", "b", ["c"]),
        ("q", "p", []),
        ("r", "s", ["1", "2", "3"]),
    ]
    assert f"rows have 0 ({lists}:1) to 3 ({lists}:2) negatives; 1 of 3 have none" in caplog.text


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        ('{"query": "q", "pos": []}', "empty", "pos is an empty list"),
        ('{"query": "q", "pos": ["p", " "]}', "empty", "pos[1]"),
        ('{"query": "q", "pos": [3]}', "not text", "pos[0] is of type int"),
        ('{"query": "q", "pos": [["p"]]}', "not text", "pos[0] is of type list"),
        ('{"query": "q", "pos": [null]}', "null", "pos[0]"),
        ('{"query": "q", "pos": ["\\ud83d"]}', "not UTF-8", "pos[0] contains an unpaired surrogate"),
        ('{"query": "q", "pos": null}', "null", "pos"),
        ('{"query": "q"}', "missing column", "pos; the row has query"),
        ('{"query": ["q"], "pos": ["p"]}', "not text", "query is of type list"),
        ('{"query": "q", "pos": ["p"], "neg": ["n", ""]}', "empty", "neg[1]"),
        ('{"query": "q", "pos": ["p"], "neg": [7]}', "not text", "neg[0] is of type int"),
        ('{"query": "q", "pos": ["p"], "neg": {"n": 1}}', "not text", "neg is of type dict"),
    ],
)
def test_an_unusable_text_in_a_list_makes_its_row_unusable(tmp_path, bad, reason, detail):
    path = tmp_path / "p.jsonl"
    good = '{"query": "q", "pos": ["p1", "p2"], "neg": ["n"]}\n'
    path.write_text(good + bad + "\n" + good, encoding="utf-8")
    pairs, rows = read(tmp_path, path, max_bad_row_ratio=0.34)
    assert (pairs.rows_read, pairs.rows, len(rows)) == (3, 4, 4)
    assert pairs.rejected == {reason: 1}
    assert [(row.where, row.detail) for row in pairs.bad_rows] == [(f"{path}:2", detail)]


def test_the_bad_row_ratio_is_relative_to_lines_not_to_pairs(tmp_path):
    lines = [{"query": "q", "pos": ["p"] * 50}, {"query": "q", "pos": []}]
    path = write_jsonl(tmp_path / "p.jsonl", lines)
    with pytest.raises(DataError, match=r"p\.jsonl:2: empty \(pos .*\).*\b1 of 2 rows "):
        read(tmp_path, path, max_bad_row_ratio=0.4)
    assert read(tmp_path, path, max_bad_row_ratio=0.5)[0].rows == 50


def test_negatives_of_bad_rows_do_not_count(tmp_path):
    lines = [{"query": "q", "pos": ["p"]}, {"query": "q", "pos": [], "neg": ["1", "2", "3"]}]
    pairs, _ = read(tmp_path, write_jsonl(tmp_path / "p.jsonl", lines), max_bad_row_ratio=0.5)
    assert pairs.columns == ("anchor", "positive") == tuple(read_table(pairs.path).column_names)


def test_the_message_lists_each_known_column_once(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"title": "t", "pos": ["p"]}])
    with pytest.raises(DataError, match=r"\banchor, query, question\b.*MNRL_ANCHOR_COLUMN"):
        read(tmp_path, path)
    path = write_jsonl(tmp_path / "p.jsonl", [{"query": "t", "body": ["p"]}])
    with pytest.raises(DataError, match=r"\bpositive, document, answer, pos\b.*MNRL_POSITIVE_COLUMN"):
        read(tmp_path, path)
