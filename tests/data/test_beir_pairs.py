"""Training data in BEIR layout: relevant documents become pairs, the others are counted."""

import gzip
import hashlib

import pytest

from mnrl_job.config.setting_types import Source
from mnrl_job.data import beir as beir_layout
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.sources import fetch, locate
from mnrl_job.errors import DataError
from tests.data.beir_folder import CORPUS, beir
from tests.data.reading import read
from tests.examples import write_jsonl


def test_every_judgment_with_a_score_above_0_is_a_pair_and_the_others_are_counted(tmp_path):
    folder = beir(tmp_path / "set", "q2\td1\t2\nq1\td2\t0\nq2\td2\t0.5\nq1\td1\t-1\n")
    pairs, rows = read(tmp_path, folder)
    assert rows == [{"anchor": "two", "positive": "T first"}, {"anchor": "two", "positive": "second"}]
    (source,) = pairs.sources
    assert (source.rows_read, source.rows, source.not_relevant, source.files) == (4, 2, 2, 3)
    assert (pairs.rows_read, pairs.rows, pairs.rejected) == (4, 2, {})
    assert source.columns == {"anchor": "queries.jsonl", "positive": "corpus.jsonl"}


def test_only_the_three_parts_are_read_and_hashed(tmp_path):
    folder = beir(tmp_path / "set")
    (folder / "README.md").write_text("about", encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td2\t1\n", encoding="utf-8")
    pairs, rows = read(tmp_path, folder)
    assert rows == [{"anchor": "one", "positive": "T first"}]
    parts = [(folder / name).read_bytes() for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv")]
    assert pairs.sources[0].sha256 == hashlib.sha256(b"".join(parts)).hexdigest()


def test_gzipped_files_give_the_same_pairs(tmp_path):
    folder = beir(tmp_path / "set")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    assert read(tmp_path, folder)[1] == [{"anchor": "one", "positive": "T first"}]


@pytest.mark.parametrize(
    ("judgement", "reason", "detail"),
    [
        ("q9\td1\t1", "unknown id", "queries.jsonl has no 'q9'"),
        ("q1\td9\t1", "unknown id", "corpus.jsonl has no 'd9'"),
        ("q1\td1\tgood", "not a number", "score is 'good'"),
        ("q1\td1\tnan", "not a number", "score is 'nan'"),
        ("q1\td1\t", "not a number", "score is ''"),
        ("q1\td3\t1", "empty", "text of 'd3' at {}/corpus.jsonl:3"),
        ("q1\td1", "wrong number of fields", "2 fields, the header has 3"),
    ],
)
def test_an_unusable_judgment_is_a_bad_row(tmp_path, judgement, reason, detail):
    folder = beir(tmp_path / "set", f"q1\td1\t1\n{judgement}\n")
    pairs, rows = read(tmp_path, folder, max_bad_row_ratio=0.5)
    assert len(rows) == 1
    assert pairs.rejected == {reason: 1}
    assert pairs.bad_rows == (BadRow(f"{folder}/qrels/train.tsv:3", reason, detail.format(folder)),)
    with pytest.raises(DataError, match=rf"qrels/train\.tsv:3: {reason} \(.*\b1 of 2 rows .*\(1 {reason}\)"):
        read(tmp_path, folder, max_bad_row_ratio=0.4)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"text": 3}, "not text"),
        ({}, "missing column"),
        ({"text": None}, "null"),
        ({"text": float("nan")}, "null"),
        ({"title": ["T"], "text": "x"}, "not text"),
    ],
)
def test_an_unusable_document_makes_only_its_own_judgments_unusable(tmp_path, document, reason):
    corpus = [{"_id": "d1"} | document, {"_id": "d2", "text": "second"}]
    folder = beir(tmp_path / "set", "q1\td1\t1\nq1\td2\t1\nq2\td1\t1\n", corpus=corpus)
    pairs, rows = read(tmp_path, folder, max_bad_row_ratio=0.7)
    assert rows == [{"anchor": "one", "positive": "second"}]
    assert [(row.where, row.reason) for row in pairs.bad_rows] == [
        (f"{folder}/qrels/train.tsv:2", reason),
        (f"{folder}/qrels/train.tsv:4", reason),
    ]


def test_ids_may_be_integers_and_titles_nan(tmp_path):
    corpus = [{"_id": 7, "title": float("nan"), "text": "first"}, {"_id": 8, "title": None, "text": "second"}]
    queries = [{"_id": 1, "text": "one"}, {"_id": 2, "text": "two"}]
    folder = beir(tmp_path / "set", "1\t7\t1\n2\t8\t1\n", corpus=corpus, queries=queries)
    assert read(tmp_path, folder)[1] == [
        {"anchor": "one", "positive": "first"},
        {"anchor": "two", "positive": "second"},
    ]


def test_judgments_of_a_duplicate_id_are_unusable(tmp_path):
    folder = beir(tmp_path / "set", corpus=[*CORPUS, {"_id": "d1", "text": "again"}])
    with pytest.raises(DataError, match=r"train\.tsv:2: duplicate id \('d1' .*corpus\.jsonl:4\)"):
        read(tmp_path, folder)


def test_unreferenced_documents_may_be_unusable_if_their_id_is_readable(tmp_path):
    folder = beir(tmp_path / "set", corpus=[*CORPUS, {"_id": "d4", "text": None}, {"_id": "d3", "text": "again"}])
    assert read(tmp_path, folder)[0].rows == 1
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"_id": "d5\n{"text": "nameless"}\n')
    pairs, rows = read(tmp_path, folder, max_bad_row_ratio=0.7)
    assert len(rows) == 1
    named = [(row.where, row.reason) for row in pairs.bad_rows]
    assert named == [(f"{folder}/corpus.jsonl:6", "malformed JSON"), (f"{folder}/corpus.jsonl:7", "missing column")]
    with pytest.raises(DataError, match=r"corpus.jsonl:6: malformed JSON"):
        read(tmp_path, folder)


def test_only_texts_of_relevant_judgments_are_held_in_memory(tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr(beir_layout, "clean_text", lambda *given: held.append(given[0].strip()) or held[-1])
    many = [{"_id": f"x{i}", "text": "never named"} for i in range(1000)]
    read(tmp_path, beir(tmp_path / "set", "q1\td1\t1\nq2\td2\t0\n", corpus=[*CORPUS, *many]))
    assert held == ["one", "T first"]


@pytest.mark.parametrize("split", ["test", "dev"])
def test_qrels_for_evaluation_are_not_trained_on(tmp_path, split):
    folder = beir(tmp_path / "set", split=split)
    with pytest.raises(DataError, match=rf"set: qrels/train\.tsv .*qrels/{split}\.tsv"):
        read(tmp_path, folder)


@pytest.mark.parametrize("part", ["corpus.jsonl", "queries.jsonl"])
def test_a_missing_part_is_named(tmp_path, part):
    folder = beir(tmp_path / "set")
    (folder / part).unlink()
    with pytest.raises(DataError, match=f"set: {part} "):
        read(tmp_path, folder)


def test_qrels_without_a_header_are_refused_with_the_expected_columns(tmp_path):
    folder = beir(tmp_path / "set")
    (folder / "qrels" / "train.tsv").write_text("q1\td1\t1\nq2\td2\t1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.tsv:2: column 'query-id' .*\bq1, d1, 1; "):
        read(tmp_path, folder)


def test_qrels_without_a_relevant_document_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"set/qrels/train\.tsv: .*\babove 0"):
        read(tmp_path, beir(tmp_path / "set", "q1\td1\t0\n"))


def test_a_folder_of_pairs_is_not_mistaken_for_beir_data(tmp_path):
    rows = [{"query": "q", "document": "d"}]
    write_jsonl(tmp_path / "set" / "corpus.jsonl", rows)
    write_jsonl(tmp_path / "set" / "qrels" / "more.jsonl", rows)
    assert read(tmp_path, tmp_path / "set")[0].rows == 2


def test_beir_data_can_be_combined_with_other_sources(tmp_path):
    lists = write_jsonl(tmp_path / "l.jsonl", [{"query": "q", "pos": ["p1", "p2"], "neg": ["n"]}])
    pairs, rows = read(tmp_path, beir(tmp_path / "set"), lists)
    assert [tuple(row.values()) for row in rows] == [("one", "T first", []), ("q", "p1", ["n"]), ("q", "p2", ["n"])]
    assert [(source.rows_read, source.rows) for source in pairs.sources] == [(1, 1), (1, 2)]


def test_the_weight_of_a_folder_is_recorded(tmp_path):
    source = Source("set", str(beir(tmp_path / "set")), 3)
    assert fetch(locate(source, "MNRL_TRAIN_DATA"), tmp_path).weight == 3
    assert read(tmp_path, source)[0].sources[0].weight == 3
