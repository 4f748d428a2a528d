"""Small eval sets in both layouts."""

import json

from mnrl_job.config.setting_types import Source
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.sources import fetch, locate
from mnrl_job.data.tables import read_table
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
    return {name: read_table(eval_set.folder / f"{name}.arrow").to_pylist() for name in ("queries", "corpus", "qrels")}


def as_json(path, queries=QUERIES, corpus=CORPUS, relevant=None):
    content = {"queries": queries, "corpus": corpus, "relevant_docs": relevant or {"q1": {"d1": 2}, "q2": ["d2"]}}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
