"""Inputs without any usable row: the message begins with the file."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnrl_job.config.row_filter import parse_row_filter
from mnrl_job.config.setting_types import Source
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.sources import fetch, locate
from mnrl_job.errors import DataError
from tests.data.beir_folder import beir
from tests.data.reading import read
from tests.examples import write_jsonl

HEADER = "query-id\tcorpus-id\tscore\n"


def message_of(tmp_path, *sources, **settings):
    with pytest.raises(DataError) as caught:
        read(tmp_path, *sources, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.jsonl", b""),
        ("blank.jsonl", b"\n \n"),
        ("empty.csv", b""),
        ("header.csv", b"anchor,positive\n"),
        ("header.tsv", b"anchor\tpositive\n"),
        ("empty.jsonl.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_a_training_file_without_rows_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert message_of(tmp_path, path).startswith(f"{path}: the file has no rows; expected rows with an anchor")


def test_a_parquet_file_without_rows_is_named(tmp_path):
    path = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"anchor": pa.array([], pa.string()), "positive": pa.array([], pa.string())}), path)
    assert message_of(tmp_path, path).startswith(f"{path}: the file has no rows")


def test_of_a_folder_of_empty_files_the_first_is_named_and_the_others_are_counted(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jsonl", "b.jsonl", "c.csv"):
        (tmp_path / "in" / name).touch()
    message = message_of(tmp_path, tmp_path / "in")
    assert message.startswith(f"{tmp_path}/in/a.jsonl: the file has no rows; 2 other file(s) give no pair either")


def test_a_training_file_of_which_the_filter_excludes_all_rows_is_named(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"anchor": "a", "positive": "b", "split": "dev"}])
    empty = write_jsonl(tmp_path / "e.jsonl", [])
    message = message_of(tmp_path, path, empty, row_filter=parse_row_filter("split=train"))
    assert message.startswith(f'{path}: MNRL_ROW_FILTER="split=train" matches no row of s0')


def test_a_training_file_with_unusable_rows_only_is_named_whatever_ratio_is_allowed(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"anchor": "a", "positive": ""}] * 2)
    message = message_of(tmp_path, path, max_bad_row_ratio=1)
    assert message == f"{path}:1: empty (positive); 2 of 2 rows are unusable (2 empty); fix them"


@pytest.mark.parametrize("part", ["corpus.jsonl", "queries.jsonl"])
def test_an_empty_part_of_beir_training_data_is_named(tmp_path, part):
    folder = beir(tmp_path / "set")
    (folder / part).write_text("", encoding="utf-8")
    assert message_of(tmp_path, folder).startswith(f"{folder}/{part}: the file has no rows; ")


@pytest.mark.parametrize("content", ["", HEADER])
def test_empty_qrels_of_beir_training_data_are_named(tmp_path, content):
    folder = beir(tmp_path / "set")
    (folder / "qrels" / "train.tsv").write_text(content, encoding="utf-8")
    assert message_of(tmp_path, folder).startswith(f"{folder}/qrels/train.tsv: the file has no rows; ")


@pytest.mark.parametrize(
    ("part", "rows"), [("queries.jsonl", "queries"), ("corpus.jsonl", "documents"), ("qrels/test.tsv", "judgments")]
)
def test_an_empty_part_of_an_eval_set_is_named(tmp_path, part, rows):
    folder = beir(tmp_path / "set", split="test", corpus=[{"_id": "d1", "text": "first"}])
    (folder / part).write_text("", encoding="utf-8")
    source = fetch(locate(Source("set", str(folder)), "MNRL_EVAL_DATA"), tmp_path / "in")
    with pytest.raises(DataError) as caught:
        read_evalset(source, tmp_path / "out")
    assert str(caught.value) == f"{folder}/{part}: the eval set has no {rows}"
