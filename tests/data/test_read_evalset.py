"""Eval sets: both layouts give the same, and ambiguous ones are refused."""

import gzip
import json

import pytest

from mnrl_job.errors import DataError
from tests.data.eval_sets import CORPUS, QUERIES, as_json, beir, content, read
from tests.examples import write_jsonl


def test_a_beir_folder_a_gzipped_one_and_a_json_file_give_the_same_eval_set(tmp_path):
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
    assert read_sets[0]["qrels"][0] == {"query": "q1", "document": "d1", "relevance": 2}


def test_any_corrupted_byte_of_a_gzipped_json_file_is_refused(tmp_path):
    relevant = {"q1": {"d1": 2}, "q2": ["d2"]}
    single = json.dumps({"queries": QUERIES, "corpus": CORPUS, "relevant_docs": relevant}).encode()
    path = tmp_path / "set.json.gz"
    for position in range(10, len(packed := gzip.compress(single, mtime=0))):
        content = bytearray(packed)
        content[position] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"set\.json\.gz: .*JSON"):
            read(path, tmp_path / "out")


def test_titles_precede_texts(tmp_path):
    folder = beir(tmp_path / "set")
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d1", "title": "T", "text": "x"}, {"_id": "d2", "text": "y"}])
    assert content(read(folder, tmp_path / "out"))["corpus"][0] == {"id": "d1", "text": "T x", "title": 2}


def test_queries_without_a_relevant_document_are_left_out_and_counted(tmp_path):
    eval_set = read(beir(tmp_path / "set", qrels="q1\td1\t1\nq2\td2\t0\n"), tmp_path / "out")
    assert (eval_set.queries, eval_set.unjudged_queries) == (1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"qrels": "q1\td9\t1\n"},
            r"test\.tsv:2: unknown id \(.*\bdocument 'd9'\).*\b1 of 1 judgments",
        ),
        ({"qrels": "q7\td1\t1\n"}, r"test\.tsv:2: unknown id \(.*\bquery 'q7'\)"),
        ({"qrels": "q1\td1\tgood\n"}, r"test\.tsv:2: invalid score \(score 'good' of 'd1' "),
        ({"qrels": "q1\td1\t1.5\n"}, r"test\.tsv:2: invalid score \(score '1\.5' of 'd1' "),
        ({"qrels": "q1\td1\tinf\n"}, r"test\.tsv:2: invalid score \(score 'inf' of 'd1' "),
        ({"qrels": "q1\td1\t99999999999999999999\n"}, r"score '9+' of 'd1' .*\b10{9}\)"),
        (
            {"qrels": "q1\td1\t2\nq2\td1\t1\nq1\td1\t0\n"},
            r"test\.tsv:4: contradiction \('d1' .*\b0\b.*'q1'.*\b2\b",
        ),
        ({"qrels": "q1\td1\t0\n"}, r"qrels/test\.tsv: .* above 0"),
        ({"qrels": ""}, r"qrels/test\.tsv: .*no judgments$"),
        ({"queries": {}}, r"/queries\.jsonl: .*no queries$"),
        (
            {"corpus": {"d1": "first", "d2": " "}},
            r"corpus\.jsonl:2: empty \(text of 'd2'\).*\b1 of 2 documents .*MNRL_MAX_BAD_ROW_RATIO=0\.5 ",
        ),
    ],
)
def test_an_unusable_eval_set_is_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        read(beir(tmp_path / "set", **change), tmp_path / "out")


def test_relevance_may_be_written_as_a_decimal_and_a_judgment_repeated(tmp_path):
    folder = beir(tmp_path / "set", qrels="q1\td1\t2.0\nq1\td1\t2\nq2\td2\t1.0\n")
    single = tmp_path / "set.json"
    relevant = '{"q1": {"d1": 2.0, "d1": 2}, "q2": ["d2", "d2"]}'
    parts = f'"queries": {json.dumps(QUERIES)}, "corpus": {json.dumps(CORPUS)}, "relevant_docs": {relevant}'
    single.write_text("{" + parts + "}", encoding="utf-8")
    expected = [{"query": "q1", "document": "d1", "relevance": 2}, {"query": "q2", "document": "d2", "relevance": 1}]
    for i, uri in enumerate((folder, single)):
        assert content(read(uri, tmp_path / f"out{i}"))["qrels"] == expected


@pytest.mark.parametrize(
    ("relevant", "message"),
    [
        ('{"q1": {"d1": 2, "d1": 0}}', "duplicate key 'd1'"),
        ('{"q1": ["d1"], "q1": ["d2"]}', "duplicate key 'q1'"),
        ('{"q1": {"d1": 1.5}}', r"relevant_docs\['q1'\]: invalid score \(score 1\.5 of 'd1' "),
        ('{"q1": {"d1": true}}', "score True of 'd1'"),
        ('{"q1": {"d1": NaN}}', "score nan of 'd1'"),
        ('{"q1": {"d1": 1' + "0" * 400 + "}}", r"relevant_docs\['q1'\]: invalid score \(score 10{9,}.* of 'd1' "),
        ('{"q1": {"d1": "good"}}', "score 'good' of 'd1'"),
        ('{"q1": [null]}', r"relevant_docs\['q1'\]: not text \(.*\bnull\b"),
        ('{"q1": [true]}', r"relevant_docs\['q1'\]: not text \(.*\bbool\b"),
        ('{"q1": "d1"}', r"relevant_docs\['q1'\]: "),
    ],
)
def test_ambiguous_judgments_of_a_json_file_are_refused(tmp_path, relevant, message):
    parts = f'"queries": {json.dumps(QUERIES)}, "corpus": {json.dumps(CORPUS)}, "relevant_docs": {relevant}'
    (tmp_path / "set.json").write_text("{" + parts + "}", encoding="utf-8")
    with pytest.raises(DataError, match=rf"set\.json: .*{message}"):
        read(tmp_path / "set.json", tmp_path / "out")


def test_a_repeated_id_is_refused(tmp_path):
    folder = beir(tmp_path / "set")
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d1", "text": "x"}, {"_id": "d1", "text": "y"}])
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: duplicate id \('d1'; "):
        read(folder, tmp_path / "out")


def test_a_missing_part_is_named(tmp_path):
    folder = beir(tmp_path / "set")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"set: queries\.jsonl "):
        read(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "[]", '{"queries": {}}', '{"queries": {"q": 1}, "corpus": {}, "relevant_docs": {}}']
)
def test_a_json_file_of_another_shape_is_refused(tmp_path, text):
    (tmp_path / "set.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"set\.json"):
        read(tmp_path / "set.json", tmp_path / "out")


def test_ids_may_be_integers(tmp_path):
    folder = beir(
        tmp_path / "set", "1\t7\t1\n2\t8\t1\n", queries={1: "one", 2: "two"}, corpus={7: "first", 8: "second"}
    )
    single = as_json(tmp_path / "s.json", {"1": "one", "2": "two"}, {"7": "first", "8": "second"}, {"1": [7], "2": [8]})
    assert content(read(folder, tmp_path / "a")) == content(read(single, tmp_path / "b"))
    assert content(read(folder, tmp_path / "a"))["corpus"][0] == {"id": "7", "text": "first", "title": 0}


@pytest.mark.parametrize("title", [None, float("nan"), ""])
def test_an_empty_cell_is_no_title(tmp_path, title):
    folder = beir(tmp_path / "set")
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d1", "title": title, "text": "x"}, {"_id": "d2", "text": "y"}])
    assert content(read(folder, tmp_path / "out"))["corpus"][0]["text"] == "x"
