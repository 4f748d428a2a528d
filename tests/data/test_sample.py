"""Sampling large sources: their rows as they are, from all over, read from ranges of the files."""

import csv
import io
import json
import random
import re
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnrl_job.config.setting_types import Source
from mnrl_job.data import sample, sample_file
from mnrl_job.data.read_pairs import ReadOptions, read_pairs
from mnrl_job.data.sample import sample_sources
from mnrl_job.data.sources import locate
from mnrl_job.data.tables import read_table
from mnrl_job.errors import DataError
from tests.data.beir_folder import beir
from tests.examples import write_jsonl
from tests.servers.proxy import proxied
from tests.servers.s3 import put

ROWS, WANTED = 20_000, 2_000
TOLERANT = ReadOptions(max_bad_row_ratio=1.0)


@pytest.fixture(autouse=True)
def low_threshold(monkeypatch):
    """And short beginnings."""
    monkeypatch.setattr(sample, "SAMPLED_ABOVE", 1_000)
    monkeypatch.setattr(sample_file, "HEAD", 1 << 12)


def difficult_pairs(bad_every=100):
    """Texts with quotes, separators and lines that look like rows; every so many rows lack the positive."""
    texts = random.Random(7)
    for row in range(ROWS):
        words = ['"quoted"', "a,b", "x\ny,z", "\n\n", 'end"\n', "tab\tbed", "plain words", "ü"]
        positive = f"p {row} " + " ".join(texts.choices(words, k=texts.randrange(1, 12)))
        yield f"q {row}", positive if row % bad_every else ""


def as_csv(pairs, separator=","):
    csv.writer(text := io.StringIO(), delimiter=separator).writerows([("anchor", "positive"), *pairs])
    return text.getvalue().encode()


def as_jsonl(pairs):
    return "".join(json.dumps({"anchor": a, "positive": p}) + "\n" for a, p in pairs).encode()


def as_parquet(pairs, **options):
    anchors, positives = zip(*pairs, strict=True)
    table = pa.table({"anchor": anchors, "positive": positives})
    pq.write_table(table, data := io.BytesIO(), **{"row_group_size": 999} | options)
    return data.getvalue()


def packed(data, codec):
    stream = pa.CompressedOutputStream(sink := pa.BufferOutputStream(), codec)
    stream.write(data)
    stream.close()
    return sink.getvalue().to_pybytes()


KINDS = {
    "a.jsonl": as_jsonl,
    "a.csv": as_csv,
    "a.tsv": lambda pairs: as_csv(pairs, "\t"),
    "a.parquet": as_parquet,
    "a.jsonl.gz": lambda pairs: packed(as_jsonl(pairs), "gzip"),
    "a.csv.zst": lambda pairs: packed(as_csv(pairs), "zstd"),
}


def read_sample(uri, folder, wanted=WANTED):
    """The sample of a source, its pairs, and their rows."""
    (sampled,) = sample_sources([locate(Source("s", str(uri)), "MNRL_TRAIN_DATA", "path")], wanted, folder / "sample")
    pairs = read_pairs((sampled,), TOLERANT, folder / "pairs.arrow")
    return sampled, pairs, read_table(pairs.path).to_pylist()


@pytest.mark.parametrize("name", KINDS)
def test_a_sample_has_whole_rows_from_all_over_a_file_and_says_where_bad_ones_are(tmp_path, name, monkeypatch):
    is_compressed = name.endswith((".gz", ".zst"))
    if is_compressed:
        monkeypatch.setattr(sample_file, "HEAD", 1 << 15)
    written = list(difficult_pairs())
    data = KINDS[name](written)
    (tmp_path / name).write_bytes(data)
    sampled, pairs, rows = read_sample(tmp_path / name, tmp_path)
    whole = {(a, p.strip()) for a, p in written}
    assert {(row["anchor"], row["positive"]) for row in rows} <= whole, "no row is cut, and no two are merged"
    assert len(rows) == len({row["anchor"] for row in rows}), "no row is sampled twice"
    assert 0.7 * WANTED < pairs.rows_read < (3 if is_compressed else 1.3) * WANTED
    assert 0.9 * ROWS < sampled.rows < 1.1 * ROWS or name == "a.csv.zst"
    assert 0.5 * ROWS < sampled.rows < 1.5 * ROWS, "a frame of zstd ends with a large block"
    numbers = sorted(int(row["anchor"].split()[1]) for row in rows)
    assert is_compressed or (numbers[0] < 2 and numbers[-1] > 0.95 * ROWS)
    assert max(b - a for a, b in pairwise(numbers)) < (3 if is_compressed else 2_000)
    assert pairs.rejected.keys() == {"empty"}
    assert 0.2 < pairs.rejected["empty"] / (WANTED / 100) < 2
    for row in pairs.bad_rows:
        assert is_bad_row(row.where.removeprefix(f"{tmp_path / name}"), data, written, name), row.where


def is_bad_row(where, data, written, name):
    """Whether there is a row without a positive at that line, or near that byte."""
    if match := re.fullmatch(r", near byte (\d+)", where):
        assert int(match[1]) > 0
        near = data[int(match[1]) :][: 100 * 2 * len(data) // ROWS]
        return re.search(rb'(?m)("positive": ""|^q \d+(,|\t)"?"?\r?)$', near.replace(b"}", b"")) is not None
    line = int(where.removeprefix(":"))
    if name == "a.parquet":
        return not written[line - 1][1]
    text = as_jsonl(written) if "jsonl" in name else as_csv(written)
    number = int(re.search(rb"q (\d+)", re.split(rb"\r\n|\n|\r", text)[line - 1])[1])
    return not written[number][1]


def test_small_sources_are_not_sampled(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ({"anchor": f"a {i}", "positive": "b"} for i in range(900)))
    assert (
        sample_sources([locate(Source("s", str(tmp_path / "a.jsonl")), "MNRL_TRAIN_DATA")], 100, tmp_path / "x") == ()
    )


def test_many_files_are_sampled_at_even_distances_and_count_for_the_others(tmp_path, monkeypatch):
    """The names of the folders are columns, as in the whole."""
    monkeypatch.setattr(sample, "MAX_FILES", 5)
    for part in range(50):
        rows = ({"anchor": f"{part} {i}", "positive": f"text {i}"} for i in range(400))
        write_jsonl(tmp_path / "data" / f"split={'train' if part % 2 else 'dev'}" / f"{part}.jsonl", rows)
    located = locate(Source("s", str(tmp_path / "data")), "MNRL_TRAIN_DATA")
    (sampled,) = sample_sources([located], 1_000, tmp_path / "sample")
    assert (len(sampled.files), sampled.files_in_all) == (5, 50)
    assert 19_000 < sampled.rows < 21_000
    with pytest.raises(DataError, match=r"data/split=\w+/.*column split .*MNRL_ROW_FILTER"):
        read_pairs((sampled,), ReadOptions(), tmp_path / "pairs.arrow")


def test_sources_are_sampled_in_proportion(tmp_path):
    for name, count in (("a", 3_000), ("b", 1_000)):
        write_jsonl(tmp_path / f"{name}.jsonl", ({"anchor": f"{name} {i}", "positive": f"b {i}"} for i in range(count)))
    located = [locate(Source(name, str(tmp_path / f"{name}.jsonl")), "MNRL_TRAIN_DATA") for name in "ab"]
    pairs = read_pairs(sample_sources(located, 800, tmp_path / "sample"), TOLERANT, tmp_path / "pairs.arrow")
    first, second = (source.rows for source in pairs.sources)
    assert 2 < first / second < 4


def as_one_row_group(pairs):
    return as_parquet(pairs, row_group_size=ROWS, use_dictionary=False, data_page_size=4_096)


@pytest.mark.parametrize("name", [*KINDS, "large-groups.parquet"])
def test_from_s3_only_the_sampled_ranges_are_fetched(moto, reach, tmp_path, name, monkeypatch):
    if name.endswith("t"):
        monkeypatch.setattr(sample_file, "HEAD", 1 << 15)
    monkeypatch.setattr(sample_file, "PARQUET_BUFFER", 1 << 12)
    data = KINDS.get(name, as_one_row_group)(difficult_pairs())
    put(moto, reach(moto), {name: data})
    with proxied(moto) as proxy:
        uri = reach(proxy)
        _, pairs, rows = read_sample(f"{uri}/{name}", tmp_path, 500)
        gets = [seen for seen in proxy.seen if seen.startswith("GET") and name in seen and "list-type" not in seen]
    ranges = [re.search(r"bytes=(\d+)-(\d+)$", request) for request in gets]
    assert all(ranges), "no request is for the whole object"
    assert sum(int(found[2]) - int(found[1]) + 1 for found in ranges) < len(data) / 2
    assert 300 < len(rows) < (3_000 if name.endswith("t") else 800)
    assert all(row.where.startswith(f"{uri}/{name}") for row in pairs.bad_rows)


def test_of_beir_data_judgments_are_sampled_and_all_texts_are_known(moto, reach, tmp_path):
    documents = [{"_id": f"d{i}", "text": f"text {i}" if i != 3_990 else ""} for i in range(4_000)]
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(4_000)]
    judgments = "".join(f"q{i}\td{3_999 - i}\t1\n" for i in range(4_000))
    folder = beir(tmp_path / "data", judgments, queries=queries, corpus=documents)
    uri = reach(moto)
    put(moto, uri, {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")})
    for kind, place in (("local", str(folder)), ("remote", uri)):
        (tmp_path / kind).mkdir()
        sampled, pairs, rows = read_sample(place, tmp_path / kind, 500)
        assert [(row["anchor"], row["positive"]) for row in rows[:2]] == [
            ("query 0", "text 3999"),
            ("query 1", "text 3998"),
        ]
        assert [(row.where, row.reason) for row in pairs.bad_rows] == [(f"{place}/qrels/train.tsv:11", "empty")]
        assert f"{place}/corpus.jsonl:3991" in pairs.bad_rows[0].detail
        assert 3_600 < sampled.rows < 4_400


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1" + bytes(500) + b"PAR1", "damaged or does not match"),
        ("a.jsonl", b"[" + b'{"anchor": "a", "positive": "b"},' * 9_000 + b"]", r"a\.jsonl:1: a JSON array"),
        ("a.csv", b"PK\x03\x04" + bytes(300_000), "a zip archive"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_as_the_user_knows_it(tmp_path, name, content, message):
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "good.jsonl", ({"anchor": f"a {i}", "positive": "b"} for i in range(2_000)))
    (tmp_path / "data" / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_sample(tmp_path / "data", tmp_path)
    assert str(tmp_path / "data" / name) in str(error.value)
    assert str(tmp_path / "sample") not in str(error.value)
