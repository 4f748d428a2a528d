"""Read training pairs from files: columns by name, every rejected row counted."""

import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.config.setting_types import Source
from mnrl_job.data.row_counts import sufficient_ratio
from mnrl_job.errors import DataError
from tests.data.reading import read
from tests.examples import write_jsonl


@pytest.mark.parametrize(
    ("header", "anchor", "positive"),
    [
        ("answer,question", "question", "answer"),
        ("document,query", "query", "document"),
        ("positive,anchor,answer,question", "anchor", "positive"),
        ("Answer, Question ", " Question ", "Answer"),
        ("document,question", "question", "document"),
    ],
)
def test_columns_are_found_by_name_whatever_their_order(tmp_path, header, anchor, positive):
    path = tmp_path / "pairs.csv"
    texts = ",".join(f"the {name.strip()}" for name in header.split(","))
    path.write_text(f"{header}\n{texts}\n", encoding="utf-8")
    pairs, rows = read(tmp_path, path)
    assert rows == [{"anchor": f"the {anchor.strip()}", "positive": f"the {positive.strip()}"}]
    assert pairs.sources[0].columns == {"anchor": anchor, "positive": positive}


def test_columns_named_by_settings_take_precedence(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"title": "t", "body": "b", "anchor": "x", "other": "o"}])
    _, rows = read(tmp_path, path, anchor_column="title", positive_column="body", negative_columns=("other",))
    assert rows == [{"anchor": "t", "positive": "b", "negatives": ["o"]}]


def test_missing_columns_name_what_was_found_and_how_to_map(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"title": "t", "body": "b"}])
    with pytest.raises(DataError, match=r"\btitle, body; .*MNRL_ANCHOR_COLUMN"):
        read(tmp_path, path)


def test_a_first_row_without_columns_is_a_bad_row_not_a_bad_file(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"note": "x"}, {"anchor": "a", "positive": "b"}])
    pairs, rows = read(tmp_path, path, max_bad_row_ratio=0.5)
    assert rows == [{"anchor": "a", "positive": "b"}]
    assert pairs.rejected == {"missing column": 1}
    assert pairs.sources[0].ignored_columns == ("note",)


def test_other_columns_are_ignored_with_a_warning(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"anchor": "a", "positive": "b", "lang": "en", "id": 7}])
    pairs, rows = read(tmp_path, path)
    assert rows == [{"anchor": "a", "positive": "b"}]
    assert pairs.sources[0].ignored_columns == ("id", "lang")


def test_bad_rows_are_counted_by_reason_and_named(tmp_path):
    path = tmp_path / "p.jsonl"
    good = '{"anchor": "a", "positive": "b"}\n'
    bad = [
        '{"anchor": "a", "positive": " "}\n',
        '{"anchor": null, "positive": "b"}\n',
        '{"anchor": 3, "positive": "b"}\n',
    ]
    path.write_text(good + "".join(bad) + '{"anchor": "a"}\n{"anchor\n', encoding="utf-8")
    pairs, rows = read(tmp_path, path, max_bad_row_ratio=0.9)
    assert (pairs.rows_read, pairs.rows, len(rows)) == (6, 1, 1)
    assert pairs.rejected == {"empty": 1, "null": 1, "not text": 1, "missing column": 1, "malformed JSON": 1}
    assert [row.where for row in pairs.bad_rows] == [f"{path}:{line}" for line in (2, 3, 4, 5, 6)]


def test_an_unpaired_surrogate_is_a_bad_row(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"anchor": "\\ud83d", "positive": "b"}\n{"anchor": "\\ud83d\\ude00", "positive": "b"}\n')
    pairs, rows = read(tmp_path, path, max_bad_row_ratio=0.5)
    assert pairs.rejected == {"not UTF-8": 1}
    assert rows == [{"anchor": "😀", "positive": "b"}]


def test_more_bad_rows_than_allowed_fail_the_run(tmp_path):
    rows = [{"anchor": "a", "positive": "b"}] * 9 + [{"anchor": "", "positive": "b"}]
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError, match=r"p\.jsonl:10: empty .*\b1 of 10 rows .*MNRL_MAX_BAD_ROW_RATIO=0\.05 "):
        read(tmp_path, path, max_bad_row_ratio=0.05)
    assert read(tmp_path, path, max_bad_row_ratio=0.1)[0].rows == 9


def test_folders_globs_and_formats_mix(tmp_path):
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"anchor": "a1", "positive": "p1"}])
    (tmp_path / "in" / "deep").mkdir()
    (tmp_path / "in" / "deep" / "b.tsv").write_text("positive\tanchor\np2\ta2\n", encoding="utf-8")
    (tmp_path / "in" / ".hidden.txt").write_text("no data", encoding="utf-8")
    pq.write_table(pa.table({"query": ["a3"], "document": ["p3"]}), tmp_path / "c-1.parquet")
    pairs, rows = read(tmp_path, tmp_path / "in", tmp_path / "c-*.parquet")
    assert [row["anchor"] for row in rows] == ["a1", "a2", "a3"]
    assert [source.files for source in pairs.sources] == [2, 1]


def test_files_may_differ_in_their_number_of_negatives_and_the_log_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO, "mnrl_job")
    none = write_jsonl(tmp_path / "none.jsonl", [{"anchor": "a", "positive": "b"}])
    two = write_jsonl(tmp_path / "two.jsonl", [{"anchor": "c", "positive": "d", "negative": "e", "negative_1": "f"}])
    pairs, rows = read(tmp_path, none, two)
    assert pairs.columns == ("anchor", "positive", "negatives")
    assert rows == [
        {"anchor": "a", "positive": "b", "negatives": []},
        {"anchor": "c", "positive": "d", "negatives": ["e", "f"]},
    ]
    message = f"rows have 0 ({none}:1) to 2 ({two}:1) negatives; 1 of 2 have none; "
    assert message in caplog.text


def test_files_with_equal_numbers_of_negatives_log_nothing(tmp_path, caplog):
    caplog.set_level(logging.INFO, "mnrl_job")
    one = write_jsonl(tmp_path / "one.jsonl", [{"anchor": "a", "positive": "b", "negative": "c"}])
    two = write_jsonl(tmp_path / "two.jsonl", [{"query": "a", "document": "b", "negative_7": "c"}])
    assert read(tmp_path, one, two)[0].columns == ("anchor", "positive", "negatives")
    assert "negatives" not in caplog.text


@pytest.mark.parametrize(
    "absent", [{}, {"negative": None}, {"negative": ""}, {"negative": " \u200b"}, {"negative": []}]
)
@pytest.mark.parametrize("line", [0, 150, 299])
def test_a_row_without_a_negative_has_none_and_the_others_keep_theirs(tmp_path, absent, line):
    rows = [{"anchor": "a", "positive": "b", "negative": "c"} for _ in range(300)]
    rows[line] = {"anchor": "a", "positive": "b"} | absent
    pairs, read_rows = read(tmp_path, write_jsonl(tmp_path / "p.jsonl", rows))
    assert (pairs.rejected, pairs.sources[0].ignored_columns) == ({}, ())
    assert [row["negatives"] for row in read_rows] == [["c"] if i != line else [] for i in range(300)]


def test_negatives_that_begin_late_are_used_in_every_format(tmp_path):
    table = pa.table({"anchor": ["a", "b"], "positive": ["p", "q"], "negative": [None, "n"]})
    pq.write_table(table, tmp_path / "p.parquet")
    (tmp_path / "p.csv").write_text("anchor,positive,negative\na,p,\nb,q,n\n", encoding="utf-8")
    write_jsonl(
        tmp_path / "p.jsonl", [{"anchor": "a", "positive": "p"}, {"anchor": "b", "positive": "q", "negative": "n"}]
    )
    for name in ("p.parquet", "p.csv", "p.jsonl"):
        assert [row["negatives"] for row in read(tmp_path, tmp_path / name)[1]] == [[], ["n"]]


def test_a_second_negative_of_one_late_row_is_used(tmp_path):
    rows = [{"anchor": "a", "positive": "b", "negative": "c"} for _ in range(200)]
    rows.append({"anchor": "x", "positive": "y", "negative": "m", "negative_2": "n"})
    assert [*read(tmp_path, write_jsonl(tmp_path / "p.jsonl", rows))[1][-1].values()] == ["x", "y", ["m", "n"]]


def test_rows_are_in_the_order_of_their_sources(tmp_path, monkeypatch):
    monkeypatch.setattr("mnrl_job.data.read_pairs.TEXTS_PER_BATCH", 5)
    names = ["z", "a", "m"]
    files = [
        write_jsonl(tmp_path / f"{name}.jsonl", [{"anchor": f"{name}{i}", "positive": "p"} for i in range(7)])
        for name in names
    ]
    pairs, rows = read(tmp_path, *files)
    assert [row["anchor"] for row in rows] == [f"{name}{i}" for name in names for i in range(7)]
    assert [source.rows for source in pairs.sources] == [7, 7, 7]


def test_a_weight_is_recorded_with_its_source(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"anchor": "a", "positive": "b"}])
    pairs, _ = read(tmp_path, Source("heavy", str(path), 2.5), path)
    assert [source.weight for source in pairs.sources] == [2.5, None]


def test_an_empty_training_set_is_refused(tmp_path):
    (tmp_path / "p.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"/\S+: the file has no rows"):
        read(tmp_path, tmp_path / "p.jsonl")


@pytest.mark.parametrize("unseen", ["\u200b", "\ufeff", "\u2060\u200d", "\xad", "\u3164", " \u2800\n", "\x00"])
@pytest.mark.parametrize("column", ["anchor", "positive", "negative"])
def test_invisible_texts_are_empty(tmp_path, column, unseen):
    row = {"anchor": "a", "positive": "b", "negative": "c"}
    path = write_jsonl(tmp_path / "p.jsonl", [row, row | {column: unseen}])
    if column == "negative":
        assert read(tmp_path, path)[1][1]["negatives"] == []
    else:
        assert read(tmp_path, path, max_bad_row_ratio=0.5)[0].rejected == {"empty": 1}


def test_marks_and_joiners_stay_in_a_text(tmp_path):
    texts = ["🚲", "👨\u200d👩\u200d👧 fits", "❤\ufe0f", "می\u200cخواهم", "क\u200dष"]
    path = write_jsonl(tmp_path / "p.jsonl", [{"anchor": text, "positive": f" {text} "} for text in texts])
    assert [(row["anchor"], row["positive"]) for row in read(tmp_path, path)[1]] == [(text, text) for text in texts]


def test_the_first_ten_bad_rows_are_named_with_the_ratio_to_set(tmp_path, caplog):
    rows = [{"anchor": "a", "positive": "b" if i % 4 else ""} for i in range(64)]
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(
        DataError, match=r"p\.jsonl:1: empty .*\b16 of 64 rows .*MNRL_MAX_BAD_ROW_RATIO=0\.25 "
    ) as caught:
        read(tmp_path, path)
    named = [f"{path}:{line}" for line in range(1, 41, 4)]
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == named
    assert [row["where"] for row in caught.value.details["rejected_rows"]] == named
    assert read(tmp_path, path, max_bad_row_ratio=0.25)[0].rows == 48


def test_if_all_rows_are_bad_no_ratio_is_suggested(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"anchor": "", "positive": "b"}] * 3)
    with pytest.raises(DataError) as caught:
        read(tmp_path, path)
    assert "=1" not in str(caught.value)


@given(rows=st.integers(2, 10**7), share=st.floats(0, 1))
def test_the_suggested_ratio_is_sufficient_and_hardly_more(rows, share):
    bad = min(rows - 1, max(1, int(share * rows)))
    ratio = sufficient_ratio(bad, rows)
    told = float(f"{ratio:g}")
    assert bad / rows <= told <= min(1, 1.11 * bad / rows)


@pytest.mark.parametrize(
    "word", ["nan", "NaN", "None", "null", "NULL", "N/A", "#N/A", "<NA>", "NaT", "undefined", "\\N"]
)
@pytest.mark.parametrize("column", ["anchor", "positive", "negative"])
def test_missing_values_cause_a_warning_with_count_and_first_line(tmp_path, caplog, column, word):
    rows = [{"anchor": f"a{i}", "positive": f"p{i}", "negative": f"n{i}"} for i in range(5)]
    rows[2][column] = rows[4][column] = f" {word} "
    pairs, _ = read(tmp_path, write_jsonl(tmp_path / "p.jsonl", rows))
    assert (pairs.rows, pairs.rejected) == (5, {})
    assert f"2 texts look like missing values (first: {word!r} at {tmp_path}/p.jsonl:3)" in caplog.text


@pytest.mark.parametrize("text", ["none of them", "Nan's bread", "null and void", "no", "-", "banana"])
def test_texts_that_resemble_missing_values_are_no_missing_values(tmp_path, caplog, text):
    read(tmp_path, write_jsonl(tmp_path / "p.jsonl", [{"anchor": "a", "positive": text}]))
    assert "missing value" not in caplog.text
