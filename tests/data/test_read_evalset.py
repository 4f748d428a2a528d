"""Eval sets: both layouts give the same, and what cannot be judged is refused."""

import gzip
import json

import pytest

from mnrl_job.config.setting_types import Source
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.sources import fetch, locate
from mnrl_job.data.tables import read_table
from mnrl_job.errors import DataError
from tests.examples import write_jsonl

QUERIES = {"q1": "one", "q2": "two"}
CORPUS = {"d1": "first", "d2": "second"}


def beir(folder, qrels="q1\td1\t2\nq2\td2\t1\n", queries=QUERIES, corpus=CORPUS):
    write_jsonl(folder / "queries.jsonl", [{"_id": key, "text": text} for key, text in queries.items()])
    write_jsonl(folder / "corpus.jsonl", [{"_id": key, "title": "", "text": text} for key, text in corpus.items()])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}", encoding="utf-8")
    return folder


def read(uri, folder, max_bad_row_ratio=0.0):
    return read_evalset(
        fetch(locate(Source("set", str(uri)), "MNRL_EVAL_DATA"), folder / "in"), folder, max_bad_row_ratio
    )


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
        with pytest.raises(DataError, match=r"set\.json\.gz: .*JSON"):
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
        (
            {"qrels": "q1\td9\t1\n"},
            r"test\.tsv:2: unknown id \(.*\bdocument 'd9'\).*\b1 of 1 judgements",
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
        ({"qrels": "q1\td1\t0\n"}, "set: .* above 0"),
        ({"qrels": ""}, "no judgements$"),
        ({"queries": {}}, "no queries$"),
        (
            {"corpus": {"d1": "first", "d2": " "}},
            r"corpus\.jsonl:2: empty \(text of 'd2'\).*\b1 of 2 documents .*MNRL_MAX_BAD_ROW_RATIO=0\.5 ",
        ),
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
def test_judgements_of_a_json_file_that_are_unclear_are_refused(tmp_path, relevant, said):
    parts = f'"queries": {json.dumps(QUERIES)}, "corpus": {json.dumps(CORPUS)}, "relevant_docs": {relevant}'
    (tmp_path / "set.json").write_text("{" + parts + "}", encoding="utf-8")
    with pytest.raises(DataError, match=rf"set\.json: .*{said}"):
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


def as_json(path, queries=QUERIES, corpus=CORPUS, relevant=None):
    content = {"queries": queries, "corpus": corpus, "relevant_docs": relevant or {"q1": {"d1": 2}, "q2": ["d2"]}}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def ranked_without(eval_set):
    """The queries that are left out of their own rankings."""
    return [row["id"] for row in content(eval_set)["queries"] if row["own"]]


@pytest.mark.parametrize(
    ("document", "is_the_query"),
    [
        ({"text": "What is it?"}, True),
        ({"title": "", "text": " what  IS it? "}, True),
        ({"title": "A motion", "text": "What is it?"}, True),
        ({"title": "What", "text": "is it?"}, True),
        ({"title": float("nan"), "text": "What is it?"}, True),
        ({"text": "What was it?"}, False),
        ({"title": "What is it?", "text": "A thing."}, False),
    ],
)
def test_a_document_is_the_query_where_id_and_text_are_the_same(tmp_path, document, is_the_query):
    folder = beir(tmp_path / "set", "q1\td2\t1\nq2\td2\t1\n", queries=QUERIES | {"q1": "What is it?"})
    write_jsonl(folder / "corpus.jsonl", [{"_id": "q1"} | document, {"_id": "d2", "text": "What is it?"}])
    eval_set = read(folder, tmp_path / "out")
    assert ranked_without(eval_set) == (["q1"] if is_the_query else [])
    assert (eval_set.own_documents, eval_set.documents) == (int(is_the_query), 2)


def test_a_json_file_has_documents_that_are_queries_too(tmp_path):
    relevant = {"q1": {"d1": 1, "q1": 1}, "q2": {"q2": 1}, "d1": ["d1"]}
    path = as_json(tmp_path / "s.json", QUERIES | {"d1": "first?"}, CORPUS | QUERIES, relevant)
    eval_set = read(path, tmp_path / "out")
    # What is judged relevant to itself only has no answer left; ids that are equal by chance mean nothing.
    assert [row["id"] for row in content(eval_set)["queries"]] == ["q1", "d1"]
    assert [(row["query"], row["document"]) for row in content(eval_set)["judgements"]] == [("q1", "d1"), ("d1", "d1")]
    assert (ranked_without(eval_set), eval_set.unjudged_queries, eval_set.judgements) == (["q1"], 1, 2)


def test_queries_that_are_relevant_to_themselves_only_leave_nothing_to_judge(tmp_path):
    with pytest.raises(DataError, match=r"s\.json: .* above 0"):
        read(as_json(tmp_path / "s.json", corpus=QUERIES, relevant={"q1": ["q1"]}), tmp_path / "out")


def test_ids_may_be_whole_numbers(tmp_path):
    folder = beir(
        tmp_path / "set", "1\t7\t1\n2\t8\t1\n", queries={1: "one", 2: "two"}, corpus={7: "first", 8: "second"}
    )
    single = as_json(tmp_path / "s.json", {"1": "one", "2": "two"}, {"7": "first", "8": "second"}, {"1": [7], "2": [8]})
    assert content(read(folder, tmp_path / "a")) == content(read(single, tmp_path / "b"))
    assert content(read(folder, tmp_path / "a"))["corpus"][0] == {"id": "7", "text": "first"}


@pytest.mark.parametrize("title", [None, float("nan"), ""])
def test_an_empty_cell_is_no_title(tmp_path, title):
    folder = beir(tmp_path / "set")
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d1", "title": title, "text": "x"}, {"_id": "d2", "text": "y"}])
    assert content(read(folder, tmp_path / "out"))["corpus"][0]["text"] == "x"


UNUSABLE = [
    ({"_id": 1.5, "text": "x"}, "not text", "_id is of type float"),
    ({"_id": True, "text": "x"}, "not text", "_id is of type bool"),
    ({"_id": None, "text": "x"}, "not text", "_id is of type null"),
    ({"id": "d3", "text": "x"}, "missing column", "_id; found id, text"),
    ({"_id": "d3", "title": 4, "text": "x"}, "not text", "title of 'd3' is of type int"),
    ({"_id": "d3", "title": ["T"], "text": "x"}, "not text", "title of 'd3' is of type list"),
    ({"_id": "d3", "title": "T"}, "missing column", "text of 'd3'; found _id, title"),
    ({"_id": "d3", "text": None}, "null", "text of 'd3'"),
    ({"_id": "d3", "text": float("nan")}, "null", "text of 'd3'"),
    ({"_id": "d3", "text": 8}, "not text", "text of 'd3' is of type int"),
    ({"_id": "d3", "text": "\n "}, "empty", "text of 'd3'"),
    ({"_id": "d1", "text": "again"}, "duplicate id", "'d1'; ids must be unique"),
]


@pytest.mark.parametrize(("row", "reason", "detail"), UNUSABLE)
def test_a_document_that_cannot_be_used_is_named_and_left_out_where_that_is_tolerated(tmp_path, row, reason, detail):
    folder = beir(tmp_path / "set")
    rows = [{"_id": key, "text": text} for key, text in CORPUS.items()]
    write_jsonl(folder / "corpus.jsonl", [*rows, row])
    with pytest.raises(DataError) as caught:
        read(folder, tmp_path / "out")
    told = f"{folder}/corpus.jsonl:3: {reason} ({detail}"
    assert str(caught.value).startswith(told)
    assert "1 of 3 documents" in str(caught.value)
    assert "MNRL_MAX_BAD_ROW_RATIO=0.34 " in str(caught.value)
    with pytest.raises(DataError):
        read(folder, tmp_path / "out", 0.333)
    eval_set = read(folder, tmp_path / "out", 0.3334)
    assert (eval_set.documents, eval_set.rejected) == (2, {reason: 1})
    assert [(bad.where, bad.reason) for bad in eval_set.bad_rows] == [(f"{folder}/corpus.jsonl:3", reason)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1\td777\t1", "unknown id"),
        ("q777\td1\t1", "unknown id"),
        ("q1\td1\t0.5", "invalid score"),
        ("q1\td1\t1", "contradiction"),
        ("q1\td1", "wrong number of fields"),
    ],
)
def test_a_judgement_that_cannot_be_used_is_left_out_where_that_is_tolerated(tmp_path, line, reason):
    folder = beir(tmp_path / "set", f"q1\td1\t2\nq2\td2\t1\n{line}\n")
    eval_set = read(folder, tmp_path / "out", 0.4)
    assert content(eval_set)["judgements"] == content(read(beir(tmp_path / "sound"), tmp_path / "o"))["judgements"]
    assert eval_set.rejected == {reason: 1}
    assert eval_set.bad_rows[0].where == f"{folder}/qrels/test.tsv:4"


def test_each_part_is_judged_by_itself_and_what_a_lost_document_takes_along_is_counted(tmp_path, caplog):
    corpus = CORPUS | {f"x{i}": "more" for i in range(18)}
    folder = beir(tmp_path / "set", "q1\td1\t1\nq2\td2\t1\n", corpus=corpus | {"d2": ""})
    with pytest.raises(DataError, match=r"test\.tsv:3: unknown id \(.*\bdocument 'd2'\).*\b1 of 2 judgements"):
        read(folder, tmp_path / "out", 0.1)
    eval_set = read(folder, tmp_path / "out", 0.5)
    assert (eval_set.queries, eval_set.documents, eval_set.unjudged_queries) == (1, 19, 1)
    assert eval_set.rejected == {"empty": 1, "unknown id": 1}
    assert f"{folder}/corpus.jsonl:2: empty (text of 'd2')" in caplog.text
    assert "skipped 1 of 20 documents of set as unusable: 1 empty" in caplog.text


def test_the_same_of_a_json_file(tmp_path):
    relevant = {"q1": {"d1": 1, "d7": 1}, "q2": ["d2"], "q3": "d1"}
    path = as_json(tmp_path / "s.json", QUERIES, CORPUS | {"d3": "", "d4": None, "d5": 5}, relevant)
    with pytest.raises(DataError, match=r"s\.json: empty \(corpus\['d3'\]\).*\b3 of 5 documents"):
        read(path, tmp_path / "out", 0.1)
    eval_set = read(path, tmp_path / "out", 0.6)
    assert eval_set.rejected == {"empty": 1, "null": 1, "not text": 1, "unknown id": 1, "invalid judgements": 1}
    assert (eval_set.queries, eval_set.documents, eval_set.judgements) == (2, 2, 2)


def test_a_part_with_nothing_usable_is_refused_whatever_is_tolerated(tmp_path):
    with pytest.raises(DataError, match=r"corpus\.jsonl:1: empty .*\b2 of 2 documents (?!.*MNRL_MAX_BAD_ROW_RATIO=)"):
        read(beir(tmp_path / "set", corpus={"d1": "", "d2": ""}), tmp_path / "out", 1.0)


def test_words_for_missing_values_are_told_with_the_first(tmp_path, caplog):
    corpus = CORPUS | {"d3": "nan", "d4": " N/A ", "d5": "nan bread"}
    assert read(beir(tmp_path / "set", corpus=corpus), tmp_path / "out").documents == 5
    assert "documents of set: 2 texts look like missing values (first: 'nan', id 'd3')" in (caplog.text)
    assert "queries of set" not in caplog.text
