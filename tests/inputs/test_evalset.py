"""Eval sets: both layouts give the same, and what cannot be judged is refused."""

import gzip
import json

import pytest

from mnrl_job.errors import DataError
from mnrl_job.inputs.evalset import read_evalset
from mnrl_job.inputs.fetch import fetch, locate
from mnrl_job.runtime.tables import read_table
from mnrl_job.setting_types import Source
from tests.conftest import write_jsonl

QUERIES = {"q1": "one", "q2": "two"}
CORPUS = {"d1": "first", "d2": "second"}


def beir(folder, qrels="q1\td1\t2\nq2\td2\t1\n", queries=QUERIES, corpus=CORPUS):
    write_jsonl(folder / "queries.jsonl", [{"_id": key, "text": text} for key, text in queries.items()])
    write_jsonl(folder / "corpus.jsonl", [{"_id": key, "title": "", "text": text} for key, text in corpus.items()])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}", encoding="utf-8")
    return folder


def read(uri, folder):
    return read_evalset(fetch(locate(Source("set", str(uri)), "MNRL_EVAL_DATA"), folder / "in"), folder)


def content(eval_set):
    return {
        name: read_table(eval_set.folder / f"{name}.arrow").to_pylist() for name in ("queries", "corpus", "judgements")
    }


def test_a_beir_folder_a_gzipped_one_and_a_json_file_say_the_same(tmp_path):
    plain = beir(tmp_path / "plain")
    packed = beir(tmp_path / "packed")
    for file in [packed / "corpus.jsonl", packed / "queries.jsonl", packed / "qrels" / "test.tsv"]:
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    single = tmp_path / "set.json"
    relevant = {"q1": {"d1": 2}, "q2": ["d2"]}
    single.write_text(json.dumps({"queries": QUERIES, "corpus": CORPUS, "relevant_docs": relevant}), encoding="utf-8")
    read_sets = [content(read(uri, tmp_path / f"out{i}")) for i, uri in enumerate((plain, packed, single))]
    assert read_sets[0] == read_sets[1] == read_sets[2]
    assert read_sets[0]["judgements"][0] == {"query": "q1", "document": "d1", "grade": 2}


def test_whatever_byte_of_a_packed_json_file_is_wrong_it_is_told(tmp_path):
    relevant = {"q1": {"d1": 2}, "q2": ["d2"]}
    single = json.dumps({"queries": QUERIES, "corpus": CORPUS, "relevant_docs": relevant}).encode()
    path = tmp_path / "set.json.gz"
    for position in range(10, len(packed := gzip.compress(single, mtime=0))):
        content = bytearray(packed)
        content[position] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"set\.json\.gz: cannot be read as JSON"):
            read(path, tmp_path / "out")


def test_titles_stand_before_texts(tmp_path):
    folder = beir(tmp_path / "set")
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d1", "title": "T", "text": "x"}, {"_id": "d2", "text": "y"}])
    assert content(read(folder, tmp_path / "out"))["corpus"][0] == {"id": "d1", "text": "T x"}


def test_queries_without_a_relevant_document_are_left_out_and_counted(tmp_path):
    eval_set = read(beir(tmp_path / "set", qrels="q1\td1\t1\nq2\td2\t0\n"), tmp_path / "out")
    assert (eval_set.queries, eval_set.unjudged_queries) == (1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"qrels": "q1\td9\t1\n"}, "1 judgement.s. name a document that is not there, the first is 'd9'"),
        ({"qrels": "q7\td1\t1\n"}, "name a query that is not there, the first is 'q7'"),
        ({"qrels": "q1\td1\tgood\n"}, r"test.tsv:2: score 'good' is not a whole number"),
        ({"qrels": "q1\td1\t1.5\n"}, r"test.tsv:2: score '1.5' is not a whole number"),
        ({"qrels": "q1\td1\tinf\n"}, r"test.tsv:2: score 'inf' is not a whole number"),
        ({"qrels": "q1\td1\t99999999999999999999\n"}, r"test.tsv:2: score '9+' is not a whole number up to 10{9}$"),
        ({"qrels": "q1\td1\t2\nq2\td1\t1\nq1\td1\t0\n"}, r"test.tsv:4: 'd1' is judged 0 for 'q1', but 2 further up"),
        ({"qrels": "q1\td1\t0\n"}, "nothing is relevant"),
        ({"qrels": ""}, "has no judgements"),
        ({"queries": {}}, "has no queries"),
        ({"corpus": {"d1": "first", "d2": " "}}, "corpus.jsonl:2: the text of 'd2' is empty"),
    ],
)
def test_an_eval_set_that_cannot_be_judged_is_refused(tmp_path, change, said):
    with pytest.raises(DataError, match=said):
        read(beir(tmp_path / "set", **change), tmp_path / "out")


def test_a_grade_may_be_written_as_a_decimal_and_a_judgement_twice(tmp_path):
    folder = beir(tmp_path / "set", qrels="q1\td1\t2.0\nq1\td1\t2\nq2\td2\t1.0\n")
    single = tmp_path / "set.json"
    relevant = '{"q1": {"d1": 2.0, "d1": 2}, "q2": ["d2", "d2"]}'
    parts = f'"queries": {json.dumps(QUERIES)}, "corpus": {json.dumps(CORPUS)}, "relevant_docs": {relevant}'
    single.write_text("{" + parts + "}", encoding="utf-8")
    wanted = [{"query": "q1", "document": "d1", "grade": 2}, {"query": "q2", "document": "d2", "grade": 1}]
    for i, uri in enumerate((folder, single)):
        assert content(read(uri, tmp_path / f"out{i}"))["judgements"] == wanted


@pytest.mark.parametrize(
    ("relevant", "said"),
    [
        ('{"q1": {"d1": 2, "d1": 0}}', "'d1' stands twice in one object, with different contents"),
        ('{"q1": ["d1"], "q1": ["d2"]}', "'q1' stands twice in one object, with different contents"),
        ('{"q1": {"d1": 1.5}}', r"relevant_docs\['q1'\]: expected a list of ids, or ids with whole-number grades"),
        ('{"q1": {"d1": true}}', "whole-number grades"),
        ('{"q1": {"d1": NaN}}', "whole-number grades"),
        ('{"q1": {"d1": 1' + "0" * 400 + "}}", "whole-number grades"),
        ('{"q1": {"d1": "1"}}', "whole-number grades"),
        ('{"q1": "d1"}', "whole-number grades"),
    ],
)
def test_judgements_of_a_json_file_that_are_unclear_are_refused(tmp_path, relevant, said):
    parts = f'"queries": {json.dumps(QUERIES)}, "corpus": {json.dumps(CORPUS)}, "relevant_docs": {relevant}'
    (tmp_path / "set.json").write_text("{" + parts + "}", encoding="utf-8")
    with pytest.raises(DataError, match=rf"set\.json: .*{said}"):
        read(tmp_path / "set.json", tmp_path / "out")


def test_a_repeated_id_is_refused(tmp_path):
    folder = beir(tmp_path / "set")
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d1", "text": "x"}, {"_id": "d1", "text": "y"}])
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: id 'd1' stands twice"):
        read(folder, tmp_path / "out")


def test_a_missing_part_is_named(tmp_path):
    folder = beir(tmp_path / "set")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"queries.jsonl is missing; an eval set is"):
        read(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "[]", '{"queries": {}}', '{"queries": {"q": 1}, "corpus": {}, "relevant_docs": {}}']
)
def test_a_json_file_of_another_shape_is_refused(tmp_path, text):
    (tmp_path / "set.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"set\.json"):
        read(tmp_path / "set.json", tmp_path / "out")
