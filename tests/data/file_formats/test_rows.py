"""Every format gives the same rows, and every error names file and line."""

import csv
import gzip
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
ROWS = st.lists(st.fixed_dictionaries({"anchor": TEXT, "positive": TEXT}), min_size=1, max_size=20)


def as_jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_separated(rows, separator):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, ["anchor", "positive"], delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


ENCODERS = {
    ".jsonl": as_jsonl,
    ".csv": lambda rows: as_separated(rows, ","),
    ".tsv": lambda rows: as_separated(rows, "\t"),
}


def zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


COMPRESSORS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}
SOME = [{"anchor": f"wie geht das {i}", "positive": f"so geht das: {i} 日本"} for i in range(9)]


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("suffix", ENCODERS)
@given(rows=ROWS)
def test_written_rows_are_read_back_or_refused_as_ambiguous(suffix, compression, rows):
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"pairs{suffix}{compression}"
        path.write_bytes(COMPRESSORS[compression](ENCODERS[suffix](rows)))
        try:
            assert [row for _, row in read_rows(path)] == rows
        except DataError as refused:
            assert suffix != ".jsonl"
            assert "quotation marks" in str(refused)  # noqa: PT017


@given(rows=ROWS)
def test_parquet_is_read_back(rows):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        assert [row for _, row in read_rows(path)] == rows


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_multi_member_archive_is_read_to_its_end(tmp_path, compression):
    path = tmp_path / f"pairs.jsonl{compression}"
    compress, content = COMPRESSORS[compression], as_jsonl(SOME)
    path.write_bytes(compress(content[:300]) + compress(content[300:]))
    assert [row for _, row in read_rows(path)] == SOME


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("suffix", ENCODERS)
def test_a_truncated_archive_is_never_read_as_a_shorter_file(tmp_path, suffix, compression):
    path = tmp_path / f"pairs{suffix}{compression}"
    compress, content = COMPRESSORS[compression], ENCODERS[suffix](SOME)
    first, second = compress(content), compress(content)
    for start, last in ((b"", first), (first, second)):
        for length in range(1, len(last), 7):
            path.write_bytes(start + last[:length])
            with pytest.raises(DataError, match=rf"pairs{suffix}{compression}: .*damaged"):
                list(read_rows(path))


def as_parquet(rows):
    buffer = io.BytesIO()
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False, "store_schema": False}
    pq.write_table(pa.Table.from_pylist(rows), buffer, write_page_checksum=True, **plain)
    return buffer.getvalue()


PACKED = {
    "pairs.jsonl.gz": gzip.compress(as_jsonl(SOME)),
    "pairs.csv.gz": gzip.compress(as_separated(SOME, ",")),
    "pairs.jsonl.zst": zstd(as_jsonl(SOME)),
    "pairs.csv.zst": zstd(as_separated(SOME, ",")),
    "pairs.parquet": as_parquet(SOME),
}
# Without checksums, which zstd's archives need not have and Parquet's footer never has, not every wrong byte is seen.
CERTAIN = {".gz": lambda rows: rows == SOME, ".zst": lambda _: True, ".parquet": lambda rows: len(rows) == len(SOME)}


@pytest.mark.parametrize("name", PACKED)
def test_a_file_with_any_corrupted_byte_is_read_or_refused_as_damaged(tmp_path, name):
    path = tmp_path / name
    for position in range(len(PACKED[name])):
        content = bytearray(PACKED[name])
        content[position] ^= 0xFF
        path.write_bytes(content)
        try:
            rows = [row for _, row in read_rows(path)]
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert CERTAIN[path.suffix](rows), position


def test_the_checksums_of_a_parquet_file_are_verified(tmp_path):
    path = tmp_path / "pairs.parquet"
    path.write_bytes(PACKED["pairs.parquet"].replace(b"wie geht das 7", b"wie geht das 8"))
    with pytest.raises(DataError, match=r"pairs\.parquet: .*damaged"):
        list(read_rows(path))


def test_a_parquet_file_that_gives_fewer_rows_than_it_says_is_damaged(tmp_path):
    """Change the last of the two row counts in the footer: 9 in Thrift's compact encoding."""
    before, counted, after = PACKED["pairs.parquet"].rpartition(b"\x16\x12")
    path = tmp_path / "pairs.parquet"
    path.write_bytes(before + counted.replace(b"\x12", b"\x10") + after)
    with pytest.raises(DataError, match=r"pairs\.parquet: .*\b8 of 9 rows"):
        list(read_rows(path))


def test_a_malformed_line_is_named_and_the_others_are_read(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": \n[1]\n{"a": "\xff"}\n{"a": 2}\n{"a": 3, "\\ud83d": ""}\n')
    found = dict(read_rows(path))
    assert [line for line, row in found.items() if isinstance(row, dict)] == [1, 6]
    assert [(row.where, row.reason) for row in found.values() if isinstance(row, BadRow)] == [
        (f"{path}:3", "malformed JSON"),
        (f"{path}:4", "malformed JSON"),
        (f"{path}:5", "not UTF-8"),
        (f"{path}:7", "not UTF-8"),
    ]


def test_a_csv_row_of_the_wrong_length_is_named_by_its_first_line(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('anchor,positive\n"two\nlines",b\nonly one\n', encoding="utf-8")
    rows = list(read_rows(path))
    assert rows[0] == (2, {"anchor": "two\nlines", "positive": "b"})
    assert rows[1][1] == BadRow(f"{path}:4", "wrong number of fields", "1 fields, the header has 2")


def with_two_columns_of_one_name():
    buffer = io.BytesIO()
    pq.write_table(pa.table([["x"], ["y"]], names=["a", "a"]), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.xlsx", b"PK", r"unknown format \.xlsx"),
        ("pairs", b"text", r"unknown format \(no suffix\)"),
        ("pairs.jsonl.gz", b"no gzip\xff", "damaged"),
        ("pairs.jsonl.gz", gzip.compress(b'{"a": "b"}\n' * 1000, mtime=0)[:-9], "damaged"),
        ("pairs.jsonl.zst", b"no zstd\xff", "damaged"),
        ("pairs.jsonl.zst", b"", "damaged.*empty"),
        ("pairs.csv.gz", b"", "damaged.*empty"),
        ("pairs.parquet", b"not parquet", "damaged"),
        ("pairs.csv", b'a,b\n"never closed,x\ny,z\n', ":2: malformed: .*quotation marks"),
        ("pairs.csv", b"a,a\nx,y\n", ":1: .* a, a$"),
        ("pairs.csv", "größe,frage\na,b\n".encode("latin-1"), r":1: .*b'gr\\xf6\\xdfe'.* UTF-8"),
        ("pairs.tsv", "anchor\tpositive\tgröße\na\tb\t1\n".encode("latin-1"), r":1: .*b'gr\\xf6\\xdfe'.* UTF-8"),
        ("pairs.csv", "anchor,positive\na,b\n".encode("utf-16"), "UTF-16"),
        ("pairs.csv", "anchor,positive\na,b\n".encode("utf-16-be"), ":1: .*column name.* UTF-8"),
        ("pairs.parquet", with_two_columns_of_one_name(), "parquet: .* a, a$"),
        ("pairs.json", b'[{"a": 1}]', "a JSON array"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_not_part_of_the_first_column_name(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_text("anchor,positive\na,b\n", encoding="utf-8-sig")
    assert [row for _, row in read_rows(path)] == [{"anchor": "a", "positive": "b"}]
