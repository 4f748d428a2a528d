"""A small folder in BEIR layout."""

from tests.examples import write_jsonl

QUERIES = [{"_id": "q1", "text": "one"}, {"_id": "q2", "text": " two "}]
CORPUS = [{"_id": "d1", "title": "T", "text": "first"}, {"_id": "d2", "text": "second"}, {"_id": "d3", "text": ""}]


def beir(folder, judgements="q1\td1\t1\n", split="train", queries=QUERIES, corpus=CORPUS):
    write_jsonl(folder / "queries.jsonl", queries)
    write_jsonl(folder / "corpus.jsonl", corpus)
    (folder / "qrels").mkdir()
    (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judgements}", encoding="utf-8")
    return folder
