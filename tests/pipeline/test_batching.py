"""What the data is decides what meets in a batch: whole runs through the real command line."""

import json
import re

import pytest

from tests.examples import PAIRS, write_jsonl, write_pairs


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def run_of(tmp_path):
    return read_json(tmp_path / "out" / "r" / "metrics.json"), read_json(tmp_path / "out" / "r" / "audit.json")


FEW = [(f"{PAIRS[i % 8][0]} {i}", PAIRS[min(i % 16, 3)][1]) for i in range(48)]


def test_where_few_positives_repeat_every_row_is_used_and_duplicates_are_masked(mnrl_job, tmp_path, good):
    write_pairs(tmp_path / "pairs.jsonl", FEW)
    ended = mnrl_job("train", **good | {"MNRL_NUM_PROCESSES": "2"})
    assert ended.code == 0, ended.stderr
    assert re.search(r"\d\d% of the in-batch negatives are duplicates and masked", ended.stderr)
    metrics, audit = run_of(tmp_path)
    assert metrics["data"]["train"]["rows_used"] == 48
    # One positive has 39 of the 48 rows, so most documents of a batch are of most queries' own group.
    assert 3 < metrics["training"]["masked_per_anchor"] < 6
    false_negatives = audit["batches"]["false_negatives_in_a_batch"]["as_planned"]
    assert metrics["training"]["masked_per_anchor"] == pytest.approx(false_negatives / 8, abs=1e-3)
    assert audit["batches"]["largest_batch_without_duplicates"] == 1


def test_lists_triplets_and_beir_folders_are_trained_on_together_by_weight(mnrl_job, tmp_path, good):
    lists = [
        {"query": a, "pos": [p, f"what {a} asks is told where {p} is"], "neg": [f"{p} not"] * (i % 3)}
        for i, (a, p) in enumerate(PAIRS)
    ]
    write_jsonl(tmp_path / "lists.jsonl", lists)
    write_jsonl(tmp_path / "triplets.jsonl", [{"anchor": a, "positive": p, "negative": f"no {p}"} for a, p in PAIRS])
    beir = tmp_path / "beir"
    write_jsonl(beir / "queries.jsonl", [{"_id": f"q{i}", "text": a} for i, (a, _) in enumerate(PAIRS)])
    write_jsonl(beir / "corpus.jsonl", [{"_id": f"d{i}", "text": p} for i, (_, p) in enumerate(PAIRS)])
    (beir / "qrels").mkdir()
    judged = "".join(f"q{i}\td{i}\t{1 if i else 0}\n" for i in range(8))
    (beir / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")
    sources = "lists:4=lists.jsonl,triplets:2=triplets.jsonl,beir:1=beir"
    settings = {"MNRL_TRAIN_DATA": sources, "MNRL_BATCH_SIZE": "4", "MNRL_LEAKAGE_POLICY": "keep"}
    ended = mnrl_job("train", **good | settings | {"MNRL_MIN_GAIN": "-1"})  # seven steps may well do harm
    assert ended.code == 0, ended.stderr
    metrics, audit = run_of(tmp_path)
    assert [one["rows"] for one in audit["sources"]] == [16, 8, 7]
    assert audit["duplicates"]["anchors_with_several_positives"] == 8
    assert audit["batches"]["batches_an_epoch"] == {"lists": 4, "triplets": 2, "beir": 1}
    assert metrics["training"]["steps"] == 7
    assert metrics["training"]["masked_per_anchor"] < 1, "negatives that a row lacks are not there"
    assert set(audit["token_lengths"]["columns"]) == {"anchor", "positive", "negatives"}
