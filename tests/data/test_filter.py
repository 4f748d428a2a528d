"""Label columns and the row filter: selected rows are right, and varying labels need a filter."""

import csv
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnrl_job.errors import DataError
from tests.data.beir_folder import beir
from tests.data.reading import read
from tests.examples import write_jsonl


def rows_with(**columns):
    """Rows of pairs, with further columns."""
    length = len(next(iter(columns.values())))
    return [
        {"anchor": f"a{i}", "positive": f"p{i}"} | {name: values[i] for name, values in columns.items()}
        for i in range(length)
    ]


def write(path, rows):
    if path.suffix == ".jsonl":
        return write_jsonl(path, rows)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


FORMATS = pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.tsv", "p.parquet"])


@FORMATS
def test_a_filter_selects_rows_of_every_format_and_counts_the_others(tmp_path, name):
    rows = rows_with(label=[1, 0, 1, 1], split=["train", "train", "test", "train"])
    path = write(tmp_path / name, rows)
    pairs, taken = read(tmp_path, path, row_filter="label>=1 and split=train")
    assert [row["anchor"] for row in taken] == ["a0", "a3"]
    assert (pairs.rows_read, pairs.rows, pairs.filtered, pairs.rejected) == (4, 2, 2, {})
    assert pairs.sources[0].filtered == 2
    assert pairs.sources[0].ignored_columns == ()
    assert read(tmp_path, path, row_filter="all")[0].rows == 4


def test_a_filter_selects_rows_with_lists(tmp_path):
    lines = [{"query": f"q{i}", "pos": ["p", "r"], "neg": ["n"], "score": i / 4} for i in range(4)]
    pairs, taken = read(tmp_path, write_jsonl(tmp_path / "l.jsonl", lines), row_filter="score>=0.5")
    assert [row["anchor"] for row in taken] == ["q2", "q2", "q3", "q3"]
    assert (pairs.rows_read, pairs.rows, pairs.filtered) == (4, 4, 2)


@FORMATS
@pytest.mark.parametrize(
    ("column", "values", "filtering"),
    [
        ("label", [1, 1, 0], "label>=1"),
        ("labels", [1, -1, 1], "labels>=1"),
        ("Label", [1, 0, 0], "Label>=1"),
        ("score", [0.1, 0.9, 0.5], "score>=0.7"),
        ("similarity_score", [5.0, 1.0, 2.0], "similarity_score>=4"),
        ("relevance", [0, 1, 3], "relevance>=1"),
        ("is_relevant", [True, False, True], "is_relevant>=1"),
        ("isDuplicate", [0, 1, 1], "isDuplicate>=1"),
        ("split", ["test", "train", "train"], "split=train"),
        ("fold", [1, 2, 3], "fold=1"),
        ("subset", ["train", "val", "train"], "subset=train"),
        ("is_test", [False, True, False], "is_test=0"),
        ("label", ["contradiction", "entailment", "neutral"], "label=entailment"),
        ("gold", [1, 0, 1], "gold>=1"),
        ("set", ["train", "test", "train"], "set=train"),
    ],
)
def test_a_varying_label_column_is_refused_with_a_suggested_filter(tmp_path, name, column, values, filtering):
    path = write(tmp_path / name, rows_with(**{column: values}))
    with pytest.raises(DataError) as caught:
        read(tmp_path, path)
    message = str(caught.value)
    differs = next(i for i, value in enumerate(values) if value != values[0])
    assert f"{path}:{differs + (1 if path.suffix in ('.jsonl', '.parquet') else 2)}: column {column} " in message
    assert f'MNRL_ROW_FILTER="{filtering}"' in message
    assert "MNRL_ROW_FILTER=all" in message
    assert 0 < read(tmp_path, path, row_filter=filtering)[0].rows < len(values)
    assert read(tmp_path, path, row_filter="all")[0].rows == len(values)


@FORMATS
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("label", 0),
        ("score", 0.0),
        ("label", -1),
        ("is_match", False),
        ("split", "test"),
        ("split", "validation"),
        ("partition", "dev"),
        ("is_test", True),
        ("label", "no"),
        ("is_duplicate", "false"),
    ],
)
def test_a_label_column_that_excludes_all_rows_is_refused(tmp_path, name, column, value):
    path = write(tmp_path / name, rows_with(**{column: [value] * 3}))
    with pytest.raises(DataError, match=rf"\bcolumn {column} .*\ball 3 rows.*MNRL_ROW_FILTER=all\b"):
        read(tmp_path, path)
    assert read(tmp_path, path, row_filter="all")[0].rows == 3


@FORMATS
@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("label", [1, 1, 1]),
        ("score", [0.7, 0.7, 0.7]),
        ("is_relevant", [True, True, True]),
        ("split", ["train", "train", "train"]),
        ("fold", [0, 0, 0]),
        ("is_test", [False, False, False]),
        ("target", ["some text", "another text", "a third"]),
        ("class", ["animals", "plants", "animals"]),
        ("set", ["msmarco", "nq", "nq"]),
        ("labeller", ["ann", "bob", "ann"]),
        ("source", ["web", "faq", "faq"]),
        ("answer_id", [1, 2, 3]),
    ],
)
def test_label_columns_that_exclude_no_row_are_reported_as_ignored(tmp_path, name, column, values):
    pairs, rows = read(tmp_path, write(tmp_path / name, rows_with(**{column: values})))
    assert len(rows) == 3
    assert pairs.sources[0].ignored_columns == (column,)


def test_a_list_of_teacher_scores_is_no_label(tmp_path):
    rows = rows_with(scores=[[0.9, 0.1], [0.8]], pos_scores=[[1], [2]], neg_scores=[[0.1], [0.2]])
    pairs, taken = read(tmp_path, write_jsonl(tmp_path / "p.jsonl", rows))
    assert (len(taken), pairs.sources[0].ignored_columns) == (2, ("neg_scores", "pos_scores", "scores"))


def test_rows_with_and_without_a_label_vary(tmp_path):
    rows = [*rows_with(label=[1, 1]), {"anchor": "x", "positive": "y"}]
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError, match=r"p\.jsonl:3: column label .*\(1 in 2 rows, nothing in 1 rows\)"):
        read(tmp_path, path)
    assert read(tmp_path, path, row_filter="label=1")[0].filtered == 1


@pytest.mark.parametrize("same_source", [True, False])
def test_label_values_are_compared_over_all_files_and_sources(tmp_path, same_source):
    (tmp_path / "in").mkdir()
    yes = write_jsonl(tmp_path / "in" / "yes.jsonl", rows_with(label=[1, 1]))
    no = write_jsonl(tmp_path / "in" / "no.jsonl", rows_with(Label=[2, 2]))
    for one in (yes, no):
        assert read(tmp_path, one)[0].rows == 2
    with pytest.raises(DataError, match=r"\bcolumn [lL]abel .*MNRL_ROW_FILTER="):
        read(tmp_path, *([tmp_path / "in"] if same_source else [yes, no]))


def test_a_label_column_of_one_source_does_not_apply_to_another(tmp_path):
    judged = write_jsonl(tmp_path / "j.jsonl", rows_with(label=[1, 1]))
    plain = write_jsonl(tmp_path / "p.jsonl", rows_with(lang=["en", "de"]))
    assert read(tmp_path, judged, plain)[0].rows == 4


@FORMATS
def test_a_file_without_a_column_of_the_filter_is_refused(tmp_path, name):
    one = write_jsonl(tmp_path / "one.jsonl", rows_with(label=[1, 0]))
    other = write(tmp_path / name, rows_with(lang=["en", "de"]))
    with pytest.raises(DataError, match=rf"{name}: MNRL_ROW_FILTER=label .*anchor, positive, lang"):
        read(tmp_path, one, other, row_filter="label>=1")


@FORMATS
def test_a_value_that_cannot_be_compared_is_refused_at_its_line(tmp_path, name):
    path = write(tmp_path / name, rows_with(label=["1", "good", "0"]))
    line = 2 if path.suffix in (".jsonl", ".parquet") else 3
    with pytest.raises(DataError, match=rf"{name}:{line}: MNRL_ROW_FILTER=label>=1 .*label: 'good'"):
        read(tmp_path, path, row_filter="label>=1", max_bad_row_ratio=1)


def test_a_filter_without_a_match_is_refused_with_the_actual_values(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", rows_with(split=["training", "testing", "training"]))
    with pytest.raises(DataError, match=r"\bs0\b.*\bsplit .*'training' in 2 rows, 'testing' in 1 rows"):
        read(tmp_path, path, row_filter="split=train")


def test_a_source_without_a_match_of_the_filter_causes_a_warning(tmp_path, caplog):
    one, other = (write_jsonl(tmp_path / f"{i}.jsonl", rows_with(label=[i, i])) for i in (1, 0))
    assert read(tmp_path, one, other, row_filter="label>=1")[0].rows == 2
    assert "matches no row of s1" in caplog.text


def test_a_label_column_that_the_filter_does_not_use_causes_a_warning(tmp_path, caplog):
    path = write_jsonl(tmp_path / "p.jsonl", rows_with(label=[1, 1, 0], split=["train", "test", "train"]))
    assert read(tmp_path, path, row_filter="label>=1")[0].rows == 2
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("column split varies" in one and "MNRL_ROW_FILTER" in one for one in warnings)


def test_several_label_columns_give_one_suggested_filter(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", rows_with(label=[1, 1, 0], split=["train", "test", "train"]))
    with pytest.raises(DataError, match='MNRL_ROW_FILTER="label>=1 and split=train"'):
        read(tmp_path, path)


def test_errors_in_filtered_rows_do_not_count(tmp_path):
    rows = [*rows_with(label=[1, 1]), {"anchor": "", "positive": None, "label": 0}]
    pairs, _ = read(tmp_path, write_jsonl(tmp_path / "p.jsonl", rows), row_filter="label=1")
    assert (pairs.rows, pairs.filtered, pairs.rejected) == (2, 1, {})


def test_the_bad_row_ratio_is_relative_to_the_selected_rows(tmp_path):
    rows = [*rows_with(label=[1] + [0] * 97), {"anchor": "", "positive": "p", "label": 1}]
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError, match=r"\b1 of 2 rows "):
        read(tmp_path, path, row_filter="label=1", max_bad_row_ratio=0.4)


def test_beir_data_is_never_filtered(tmp_path):
    folder = beir(tmp_path / "set", "q1\td1\t1\nq2\td2\t2\nq2\td1\t0\n")
    assert read(tmp_path, folder)[0].rows == 2
    judged = write_jsonl(tmp_path / "p.jsonl", rows_with(label=[1, 0]))
    pairs, _ = read(tmp_path, folder, judged, row_filter="label>=1")
    assert (pairs.rows, pairs.filtered, pairs.sources[0].not_relevant) == (3, 1, 1)


def test_a_text_column_is_never_a_label(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"query": "a", "label": "one text"}, {"query": "b", "label": "another"}])
    assert read(tmp_path, path, positive_column="label")[0].rows == 2


def test_many_different_scores_take_little_memory(tmp_path):
    rows = rows_with(score=[i / 5000 for i in range(5000)])
    with pytest.raises(DataError, match=r'others\).*MNRL_ROW_FILTER="score>=0'):
        read(tmp_path, write_jsonl(tmp_path / "p.jsonl", rows))
