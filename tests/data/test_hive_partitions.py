"""Columns in the names of folders count as those of the files."""

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.data.hive_partitions import partitions_of
from mnrl_job.errors import DataError
from tests.data.reading import read
from tests.examples import write_pairs


def partitioned(folder, column="split"):
    write_pairs(folder / f"data/{column}=train/a.jsonl", [("a", "b"), ("c", "d")])
    write_pairs(folder / f"data/{column}=test/a.jsonl", [("e", "f")])
    return folder / "data"


def test_hive_partitions_are_read_below_the_named_folder_only(tmp_path):
    data = partitioned(tmp_path / "day=1")
    files = tuple(sorted(data.rglob("*.jsonl")))
    assert list(partitions_of(files, data).values()) == [{"split": "test"}, {"split": "train"}]
    assert list(partitions_of(files, data / "*/*.jsonl").values()) == [{"split": "test"}, {"split": "train"}]
    assert partitions_of(files[:1], data) == {files[0]: {"split": "test"}}
    assert partitions_of(files[:1], data / "split=test") == {files[0]: {}}
    assert partitions_of(files[:1], files[0]) == {files[0]: {}}


def test_a_source_with_only_the_test_split_is_refused(tmp_path):
    write_pairs(tmp_path / "data/split=test/a.jsonl", [("a", "b"), ("c", "d")])
    with pytest.raises(DataError, match=r"split.*MNRL_ROW_FILTER"):
        read(tmp_path, tmp_path / "data")
    assert len(read(tmp_path, tmp_path / "data/split=test")[1]) == 2


def test_a_hive_partition_of_another_split_is_refused(tmp_path):
    data = partitioned(tmp_path)
    with pytest.raises(DataError, match=r"split.*MNRL_ROW_FILTER"):
        read(tmp_path, data)
    _, rows = read(tmp_path, data, row_filter="split=train")
    assert [row["anchor"] for row in rows] == ["a", "c"]


def test_a_column_that_is_no_label_is_ignored(tmp_path):
    pairs, rows = read(tmp_path, partitioned(tmp_path, "date"))
    assert len(rows) == 3
    assert [source.ignored_columns for source in pairs.sources] == [("date",)]
    assert Settings().row_filter is None
