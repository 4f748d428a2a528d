"""Files under names that say something else: unpacked by what they are, or named."""

import bz2
import gzip
import io
import lzma
import pickle
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnrl_job.errors import DataError
from mnrl_job.inputs.rows import read_rows

TEXT = b'{"anchor": "a", "positive": "b"}\n'
ROWS = [(1, {"anchor": "a", "positive": "b"})]


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("pairs.jsonl", TEXT)
    return content.getvalue()


def parquet() -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table({"anchor": ["a"]}), content)
    return content.getvalue()


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz", "pairs.jsonl.zst", "pairs.json"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd, lambda raw: gzip.compress(gzip.compress(raw))])
def test_what_is_packed_is_unpacked_whatever_its_name_says(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(TEXT))
    assert list(read_rows(tmp_path / name)) == ROWS


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv.gz"])
def test_separated_values_are_unpacked_too(tmp_path, name):
    separator = b"," if "csv" in name else b"\t"
    content = b"anchor" + separator + b"positive\na" + separator + b"b\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("csv") else content)
    assert [row for _, row in read_rows(tmp_path / name)] == [ROWS[0][1]]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:cd\nsize 12\n"


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv", "pairs.tsv.gz", "pairs.parquet"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "Git LFS pointer"),
        (zipped(), "zip archive"),
        (bz2.compress(TEXT), "bzip2"),
        (lzma.compress(TEXT), "xz"),
        (pickle.dumps([{"anchor": "a"}]), "pickle"),
        (b"<!DOCTYPE html><html>sign in</html>", "HTML"),
        ("anchor,positive\n".encode("utf-16"), "UTF-16"),
    ],
    ids=["lfs", "zip", "bzip2", "xz", "pickle", "html", "utf-16"],
)
def test_a_file_of_another_kind_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        list(read_rows(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_parquet_under_another_name_and_in_an_archive_is_named(tmp_path):
    (tmp_path / "pairs.jsonl").write_bytes(parquet())
    with pytest.raises(DataError, match=r"Parquet file; name it \.parquet"):
        list(read_rows(tmp_path / "pairs.jsonl"))
    (tmp_path / "pairs.parquet").write_bytes(gzip.compress(parquet()))
    with pytest.raises(DataError, match="compressed as a whole"):
        list(read_rows(tmp_path / "pairs.parquet"))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("pairs.xlsx", "CSV UTF-8"), ("pairs.ods", "CSV UTF-8"), ("pairs.txt", "name it by"), ("p.pkl", "as .parquet")],
)
def test_a_format_that_is_not_read_is_told_how_to_be_saved(tmp_path, name, remedy):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=remedy):
        list(read_rows(tmp_path / name))
