"""What the data is decides what meets in a batch: whole runs through the real command line."""

import json

import pytest

from tests.conftest import PAIRS, write_jsonl, write_pairs


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def run_of(tmp_path):
    return read_json(tmp_path / "out" / "r" / "metrics.json"), read_json(tmp_path / "out" / "r" / "audit.json")


FEW = [(f"{PAIRS[i % 8][0]} {i}", PAIRS[min(i % 16, 3)][1]) for i in range(48)]


def test_where_few_positives_cannot_fill_the_batches_duplicates_meet_and_are_masked(mnrl_job, tmp_path, good):
    write_pairs(tmp_path / "pairs.jsonl", FEW)
    ended = mnrl_job("train", **good | {"MNRL_NUM_PROCESSES": "2"})
    assert ended.code == 0, ended.stderr
    assert "48 pairs have 4 distinct positives: kept apart they fill 0 of 6 batches of 8; so duplicates" in ended.stderr
    metrics, audit = run_of(tmp_path)
    assert metrics["training"]["batching"] == audit["batches"]["mode"] == "masked"
    assert metrics["data"]["train"]["rows_used"] == 48
    # One positive has 39 of the 48 rows, so most documents of a batch are of most queries' own group.
    assert 3 < metrics["training"]["masked_per_anchor"] < 6
    wrong = audit["batches"]["false_negatives_in_a_batch"]
    assert wrong["at_random"] / 8 == pytest.approx(metrics["training"]["masked_per_anchor"], rel=0.2)
    assert wrong["as_planned"] == 0
    assert audit["batches"]["largest_batch_at_most"] == 4


def test_planned_batches_use_what_they_can_and_the_user_is_told(mnrl_job, tmp_path, good):
    write_pairs(tmp_path / "pairs.jsonl", FEW)
    ended = mnrl_job("train", **good | {"MNRL_BATCHING": "planned", "MNRL_BATCH_SIZE": "4"})
    assert ended.code == 0, ended.stderr
    metrics, audit = run_of(tmp_path)
    assert metrics["training"]["masked_per_anchor"] == 0
    assert metrics["training"]["steps"] == 3, "the rarest positive has three rows"
    assert metrics["data"]["train"]["rows_used"] == audit["batches"]["rows_used_an_epoch"] == 12
    assert "3 batches of 4 use 12 of 48 pairs an epoch; a smaller MNRL_BATCH_SIZE may use more" in ended.stderr


def test_near_duplicates_are_kept_apart_unless_that_is_off(mnrl_job, tmp_path, good):
    long = "every invoice is listed under billing with a link and can be had as a file by mail or by post at any time"
    rows = [(f"{PAIRS[i % 8][0]} {i}", f"{long} {word}") for i, word in enumerate(["now", "later"] * 8)]
    rows += [(f"{PAIRS[i % 8][0]} again {i}", f"{PAIRS[i % 8][1]} {i}") for i in range(16)]
    write_pairs(tmp_path / "pairs.jsonl", rows)
    for setting, distinct in (("0.9", 17), ("off", 18)):
        ended = mnrl_job("train", **good | {"MNRL_NEAR_DUPLICATES": setting, "MNRL_RUN_ID": f"r{setting}"})
        assert ended.code == 0, ended.stderr
        audit = read_json(tmp_path / "out" / f"r{setting}" / "audit.json")
        assert audit["batches"]["largest_batch_at_most"] == distinct
        assert audit["near_duplicates"]["groups"] == (1 if setting == "0.9" else 0)


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
    ended = mnrl_job("train", **good | {"MNRL_TRAIN_DATA": sources, "MNRL_BATCH_SIZE": "4", "MNRL_LEAKAGE": "keep"})
    assert ended.code == 0, ended.stderr
    metrics, audit = run_of(tmp_path)
    assert [one["rows"] for one in audit["sources"]] == [16, 8, 7]
    assert audit["duplicates"]["anchors_with_several_positives"] == 8
    assert audit["batches"]["batches_an_epoch"] == {"lists": 4, "triplets": 2, "beir": 1}
    assert metrics["training"]["steps"] == 7
    # Of two columns of negatives most rows lack one or both.
    assert metrics["training"]["masked_per_anchor"] > 2
    assert set(audit["token_lengths"]["columns"]) == {"anchor", "positive", "negative_1", "negative_2"}


def test_a_negative_that_is_a_positive_of_its_anchor_elsewhere_is_told_and_not_used(mnrl_job, tmp_path, good):
    rows = [{"anchor": a, "positive": p, "negative": f"not {p}"} for a, p in PAIRS]
    rows.append({"anchor": PAIRS[0][0], "positive": f"not {PAIRS[0][1]}", "negative": "something else"})
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    ended = mnrl_job("check", **good | {"MNRL_LEAKAGE": "keep"})
    assert ended.code == 0, ended.stderr
    assert "warning  contradictions         1 negatives are positives of the same anchor elsewhere" in ended.stdout
