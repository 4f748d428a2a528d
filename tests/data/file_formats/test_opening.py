"""Files are opened by content: compressed ones under any name, and other kinds are refused with their kind."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnrl_job.config.setting_types import Source
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.sources import fetch, locate
from mnrl_job.errors import DataError

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'cd' * 32}\nsize 123456\n".encode()
CONTENT = {
    "jsonl": b'{"query": "a", "answer": "b"}\n',
    "csv": b"query,answer\na,b\n",
    "tsv": b"query\tanswer\na\tb\n",
}


def zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("p", content)
    return buffer.getvalue()


def parquet():
    buffer = io.BytesIO()
    pq.write_table(pa.table({"query": ["a"], "answer": ["b"]}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", CONTENT)
@pytest.mark.parametrize("name", ["", ".gz", ".zst"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd, lambda content: gzip.compress(gzip.compress(content))])
def test_a_compressed_file_is_read_under_any_name(tmp_path, suffix, name, pack):
    path = tmp_path / f"p.{suffix}{name}"
    path.write_bytes(pack(CONTENT[suffix]))
    assert [row for _, row in read_rows(path)] == [{"query": "a", "answer": "b"}]


FOREIGN = {
    "Git LFS pointer.*git lfs pull": POINTER,
    "zip archive": zipped(b"x"),
    "Office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "bzip2": bz2.compress(b"x"),
    "xz": lzma.compress(b"x"),
    "Parquet": parquet(),
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00]\x94.",
    "UTF-16": '{"query": "a"}\n'.encode("utf-16"),
    "HTML": b"<!DOCTYPE html>\n<title>Sign in</title>",
    "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv", "p.tsv", "p.csv.gz", "p.jsonl.zst"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_kind_is_refused_with_its_kind(tmp_path, kind, name, pack):
    (tmp_path / name).write_bytes(pack(FOREIGN[kind]))
    with pytest.raises(DataError, match=rf"{name}: .*{kind}") as caught:
        list(read_rows(tmp_path / name))
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(POINTER, "Git LFS pointer"), (gzip.compress(parquet()), "whole file is compressed"), (b"<html>", "HTML")],
)
def test_a_file_of_another_kind_named_parquet_is_refused_with_its_kind(tmp_path, content, message):
    for name in ("p.parquet", "p.parquet.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: .*{message}"):
            list(read_rows(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("p.xlsx", "CSV UTF-8"),
        ("p.ods", "CSV UTF-8"),
        ("p.pkl", "parquet"),
        ("p.txt", "name it"),
        ("p.jsonl.bz2", "decompress"),
    ],
)
def test_an_unsupported_format_is_refused_with_a_remedy(tmp_path, name, remedy):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=rf"{name}: .*{remedy}"):
        list(read_rows(tmp_path / name))


BEIR = {
    "corpus.jsonl": b'{"_id": "d", "title": "", "text": "two"}\n',
    "queries.jsonl": b'{"_id": "q", "text": "one"}\n',
    "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq\td\t1\n",
}
SINGLE = json.dumps({"queries": {"q": "one"}, "corpus": {"d": "two"}, "relevant_docs": {"q": ["d"]}}).encode()


def eval_set(tmp_path, files, root="set"):
    for name, content in files.items():
        (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / root / name).write_bytes(content)
    uri = str(tmp_path / root / (next(iter(files)) if len(files) == 1 else ""))
    located = locate(Source("set", uri), "MNRL_EVAL_DATA")
    return read_evalset(fetch(located, tmp_path / "in"), tmp_path / "out")


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_compressed_files_of_eval_sets_are_read_under_any_name(tmp_path, pack):
    assert eval_set(tmp_path, {name: pack(content) for name, content in BEIR.items()}).documents == 1
    assert eval_set(tmp_path, {"set.json": pack(SINGLE)}, "single").documents == 1


@pytest.mark.parametrize("part", [*BEIR, "set.json"])
def test_a_git_lfs_pointer_in_place_of_an_eval_set_is_recognized(tmp_path, part):
    files = BEIR | {part: POINTER} if part in BEIR else {part: POINTER}
    with pytest.raises(DataError, match=rf"{part}: .*Git LFS pointer"):
        eval_set(tmp_path, files)
