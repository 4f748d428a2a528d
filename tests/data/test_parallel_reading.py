"""Several processes read the same pairs, in the same order and with the same counts, as one."""

import gzip
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnrl_job.data.file_formats import rows as file_formats
from mnrl_job.data.label_columns import MAX_VALUES, ValueCounts
from mnrl_job.errors import DataError
from tests.data.reading import read
from tests.examples import write_jsonl

ROWS = 100


@pytest.fixture
def read_in_parallel(tmp_path, monkeypatch):
    """Read with one process and the files whole, then with two and the files split."""

    def read_twice(*sources, **settings):
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
        expected = outcome(tmp_path, *sources, **settings)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setattr(file_formats, "SPAN_BYTES", 200)
        assert outcome(tmp_path, *sources, **settings) == expected
        return expected

    return read_twice


def outcome(tmp_path, *sources, **settings):
    try:
        pairs, table = read(tmp_path, *sources, **settings)
    except DataError as error:
        return str(error)
    return replace(pairs, sources=()), [replace(source, sha256="") for source in pairs.sources], table


def row(i):
    return {"anchor": f"question {i}", "positive": f"answer {i}", "split": "train" if i % 3 else "test"}


@pytest.fixture
def lines(tmp_path):
    """Rows with byte order marks, blank lines between them, negatives in some, and no line end after the last."""
    rows = [row(i) | ({"negative": "no"} if i % 7 == 0 else {}) for i in range(ROWS)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    path.write_text("\ufeff" + path.read_text().replace("\n", "\r\n\n\ufeff").removesuffix("\r\n\n\ufeff"))
    return path


def test_json_lines_are_split_at_line_ends(lines, read_in_parallel):
    pairs, (source,), table = read_in_parallel(lines, row_filter="split=train")
    assert (pairs.rows_read, pairs.rows, source.filtered) == (ROWS, 66, 34)
    assert [each["anchor"] for each in table] == [f"question {i}" for i in range(ROWS) if i % 3]
    assert [len(each["negatives"]) for each in table] == [int(i % 7 == 0) for i in range(ROWS) if i % 3]


def test_bad_rows_are_named_by_their_line(lines, read_in_parallel):
    text = lines.read_text().split("\n")
    text[120] = '{"anchor": "question"}'
    text[160] = "{"
    lines.write_text("\n".join(text))
    pairs, *_ = read_in_parallel(lines, row_filter="all", max_bad_row_ratio=0.5)
    assert [each.where for each in pairs.bad_rows] == [f"{lines}:121", f"{lines}:161"]
    assert f"{lines}:121: missing column" in read_in_parallel(lines, row_filter="all")


def test_labels_that_vary_are_named_by_the_first_row_that_shows_it(tmp_path, read_in_parallel):
    path = write_jsonl(
        tmp_path / "pairs.jsonl", (row(i) | {"split": "train" if i < 60 else "test"} for i in range(ROWS))
    )
    assert f"{path}:61: column split varies" in read_in_parallel(path)


def test_a_process_raises_the_error_that_names_a_row(tmp_path, read_in_parallel):
    path = write_jsonl(tmp_path / "pairs.jsonl", (row(i) | {"score": "high" if i == 70 else 1} for i in range(ROWS)))
    assert f"{path}:71: MNRL_ROW_FILTER=score>=1" in read_in_parallel(path, row_filter="score>=1")


def test_parquet_is_split_by_row_groups(tmp_path, read_in_parallel):
    rows = [row(i) | {"positive": "" if i == 77 else f"answer {i}"} for i in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet", row_group_size=9)
    pairs, *_ = read_in_parallel(tmp_path / "pairs.parquet", row_filter="all", max_bad_row_ratio=0.5)
    assert [each.where for each in pairs.bad_rows] == [f"{tmp_path / 'pairs.parquet'}:78"]


def test_compressed_files_are_read_file_by_file_in_their_order(tmp_path, lines, read_in_parallel):
    (tmp_path / "data").mkdir()
    for number in range(9):
        (tmp_path / "data" / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    pairs, *_ = read_in_parallel(tmp_path / "data", row_filter="all")
    assert pairs.rows == 9 * ROWS


def test_values_of_many_spans_are_counted_as_far_as_those_of_one():
    values = ValueCounts("score")
    for start in range(0, 3 * MAX_VALUES, 100):
        part = ValueCounts("score")
        for value in range(start, start + 100):
            part.add(value, f"pairs.jsonl:{value}")
        values = values.merge(part)
    assert (len(values.counts), values.others) == (MAX_VALUES, 2 * MAX_VALUES)
    assert list(values.first) == list(range(MAX_VALUES))
