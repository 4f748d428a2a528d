"""Whole runs with each option of loss and model, on a tiny one: what comes out, and what it says about itself."""

import json

from tests.conftest import PAIRS, write_jsonl


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def card_of(run):
    return (run / "model" / "README.md").read_text(encoding="utf-8")


def test_hardness_changes_what_is_learnt_and_is_told(mnrl_job, good, tmp_path):
    rows = [{"anchor": a, "positive": p, "negative": f"{p} not"} for a, p in PAIRS]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    losses = set()
    for run, hardness in (("plain", ""), ("hard", "hard_negatives:5"), ("all", "9")):
        ended = mnrl_job("train", **good | {"MNRL_RUN_ID": run, "MNRL_HARDNESS": hardness})
        assert ended.code == 0, ended.stderr
        training = read(tmp_path / "out" / run / "metrics.json")["training"]
        losses.add(training["final_loss"])
    assert len(losses) == 3
    assert training["hardness"] == "all_negatives:9"
    assert "loss `mnrl`, scale 20, hardness weighting `all_negatives:9`" in card_of(tmp_path / "out" / "all")
    assert read(tmp_path / "out" / "plain" / "metrics.json")["training"]["hardness"] is None
