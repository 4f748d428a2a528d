"""Parquet: unused columns are not read; text is read from every Arrow string type."""

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnrl_job.data.file_formats.rows import declared_columns, read_rows
from mnrl_job.errors import DataError
from tests.data.reading import read

PAIRS = {"query": ["a", "b"], "answer": ["c", "d"]}
FAR = 253_402_300_800_000_000  # microseconds: the first moment of the year 10000
# What Python cannot hold, or what would take its time.
UNUSED = {
    "a far date": pa.array([FAR] * 2, pa.timestamp("us")),
    "a date before Christ": pa.array([-(10**6)] * 2, pa.date32()),
    "an odd time zone": pa.array([0] * 2, pa.timestamp("us", tz="GMT+2")),
    "an unknown time zone": pa.array([0] * 2, pa.timestamp("us", tz="Nowhere/At_All")),
    "a long duration": pa.array([2**62] * 2, pa.duration("s")),
    "nanoseconds": pa.array([1] * 2, pa.timestamp("ns")),
    "a vector": pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 6, pa.float32()), 3),
    "dates in a list": pa.array([[FAR], [FAR, FAR]], pa.list_(pa.timestamp("us"))),
    "a struct with a date": pa.array([{"at": FAR}] * 2, pa.struct([("at", pa.timestamp("us"))])),
    "a map": pa.array([[("k", FAR)]] * 2, pa.map_(pa.string(), pa.timestamp("us"))),
    "an image": pa.array([{"bytes": b"\x89PNG", "path": None}] * 2),
    "text that is no UTF-8": pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xff")]
    ),
    "nothing": pa.nulls(2),
    "a namesake with a dot": pa.array([FAR] * 2, pa.timestamp("us")),
}


def parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("kind", UNUSED)
def test_values_of_an_unused_column_do_not_matter(tmp_path, kind):
    name = "answer.at" if kind == "a namesake with a dot" else "unused"
    pairs, rows = read(tmp_path, parquet(tmp_path / "p.parquet", PAIRS | {name: UNUSED[kind]}))
    assert [tuple(row.values()) for row in rows] == [("a", "c"), ("b", "d")]
    assert pairs.sources[0].ignored_columns == (name,)


@pytest.mark.parametrize("kind", ["a far date", "an odd time zone", "a long duration"])
def test_a_used_column_with_values_outside_pythons_range_is_refused(tmp_path, kind):
    path = parquet(tmp_path / "p.parquet", {"query": ["a", "b"], "answer": UNUSED[kind]})
    with pytest.raises(DataError, match=r"p\.parquet: .*\banswer\b.*(timestamp|duration)") as caught:
        read(tmp_path, path)
    assert "damaged" not in str(caught.value)


def test_a_used_column_that_is_no_text_gives_bad_rows(tmp_path):
    day = pa.array([datetime.date(2026, 1, 1), None])
    path = parquet(tmp_path / "p.parquet", {"query": ["a", "b"], "answer": day})
    with pytest.raises(DataError, match=r"p\.parquet:1: not text \(answer .*\bdate\).*\b2 of 2 rows"):
        read(tmp_path, path)


TEXTS = {
    "large": pa.large_string(),
    "a view": pa.string_view(),
    "a dictionary": pa.dictionary(pa.int8(), pa.string()),
    "a dictionary of large ones": pa.dictionary(pa.int32(), pa.large_string()),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_of_every_arrow_type_is_read(tmp_path, kind):
    plain = pa.table(PAIRS)
    columns = {name: plain[name].combine_chunks().cast(pa.string()).cast(TEXTS[kind]) for name in PAIRS}
    _, rows = read(tmp_path, parquet(tmp_path / "p.parquet", columns))
    assert [tuple(row.values()) for row in rows] == [("a", "c"), ("b", "d")]


LISTS = {
    "large": pa.large_list(pa.string()),
    "of one size": pa.list_(pa.string(), 2),
    "of large texts": pa.list_(pa.large_string()),
    "a view": pa.list_view(pa.string()),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_every_arrow_type_are_read(tmp_path, kind):
    columns = {"query": ["a", "b"], "document": pa.array([["c", "d"], ["e", "f"]], LISTS[kind])}
    _, rows = read(tmp_path, parquet(tmp_path / "p.parquet", columns))
    assert [tuple(row.values()) for row in rows] == [("a", "c"), ("a", "d"), ("b", "e"), ("b", "f")]


def test_columns_are_taken_from_the_schema_and_only_requested_ones_are_read(tmp_path):
    path = parquet(tmp_path / "p.parquet", PAIRS | {"vector": UNUSED["a vector"], "valid": UNUSED["a far date"]})
    assert declared_columns(path) == {"query": False, "answer": False, "vector": True, "valid": False}
    assert [row for _, row in read_rows(path, ["answer", "gone"])] == [{"answer": "c"}, {"answer": "d"}]
    assert [row for _, row in read_rows(path, [])] == [{}, {}]
    lines = tmp_path / "p.jsonl"
    lines.write_text('{"a": 1}\n', encoding="utf-8")
    assert declared_columns(lines) is None


def test_a_wide_unused_column_takes_no_memory(tmp_path):
    rows, width = 2_000, 2_000
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([0.5] * (rows * width), pa.float32()), width)
    texts = {name: [f"{name} {i}" for i in range(rows)] for name in PAIRS}
    path = parquet(tmp_path / "wide.parquet", texts | {"vector": vectors}, compression="zstd")
    del vectors
    before = pa.default_memory_pool().bytes_allocated()
    peaks = [pa.default_memory_pool().bytes_allocated() for _ in read_rows(path, ["query", "answer"])]
    assert max(peaks) - before < rows * width  # a quarter of the vectors' bytes


def test_an_empty_file_needs_no_columns(tmp_path):
    empty = parquet(tmp_path / "empty.parquet", {})
    _, rows = read(tmp_path, parquet(tmp_path / "p.parquet", PAIRS), empty)
    assert len(rows) == 2
