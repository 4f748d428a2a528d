"""Whole runs with each option of loss and model, on a tiny one: what comes out, and what it says about itself."""

import json

import pytest
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

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


def test_prompts_are_trained_with_evaluated_with_and_saved(mnrl_job, good, tmp_path, tiny_model):
    """Those that the settings give, else the base model's own."""
    prompts = {"query": "where is my ", "document": "open "}
    base = SentenceTransformer(str(tiny_model), device="cpu")
    base.prompts = prompts
    base.save_pretrained(str(tmp_path / "prompted"), create_model_card=False)
    given = {"MNRL_QUERY_PROMPT": prompts["query"], "MNRL_DOCUMENT_PROMPT": prompts["document"]}
    runs = {"without": {}, "given": given, "own": {"MNRL_BASE_MODEL": "prompted"}}
    runs["taken"] = runs["own"] | {"MNRL_QUERY_PROMPT": "add "}
    weights, metrics = {}, {}
    for run, settings in runs.items():
        ended = mnrl_job("train", **good | settings | {"MNRL_RUN_ID": run, "MNRL_LEARNING_RATE": "1e-3"})
        assert ended.code == 0, ended.stderr
        weights[run] = load_file(tmp_path / "out" / run / "model" / "model.safetensors")
        metrics[run] = read(tmp_path / "out" / run / "metrics.json")
        reloaded = SentenceTransformer(str(tmp_path / "out" / run / "model"), device="cpu").prompts
        assert reloaded == metrics[run]["model"]["prompts"]

    name = "encoder.layer.0.output.dense.weight"
    assert weights["own"][name].equal(weights["given"][name])
    assert not weights["own"][name].equal(weights["without"][name])
    assert not weights["own"][name].equal(weights["taken"][name])
    assert metrics["own"]["evaluation"] == metrics["given"]["evaluation"]
    assert metrics["given"]["model"]["prompts"] == prompts
    assert metrics["taken"]["model"]["prompts"] == prompts | {"query": "add "}
    assert metrics["without"]["model"]["prompts"] == {"query": "", "document": ""}
    card = card_of(tmp_path / "out" / "own")
    assert 'prompts `"where is my "` before each query and `"open "` before each document' in card
    assert "trained without prompts" in card_of(tmp_path / "out" / "without")


def test_a_guide_takes_false_negatives_out_on_one_worker_as_on_two(mnrl_job, good, tmp_path, tiny_model):
    """The guide finds all texts alike that share words with the query: it takes some documents out, not all."""
    (tmp_path / "guide").symlink_to(tiny_model)
    guided = {"MNRL_LOSS": "guided", "MNRL_GUIDE_MODEL": "guide", "MNRL_PRECISION": "fp32", "MNRL_EPOCHS": "3"}
    found = {}
    for run, settings in {
        "one": {"MNRL_NUM_PROCESSES": "1"},
        "two": {"MNRL_NUM_PROCESSES": "2", "MNRL_MINI_BATCH_SIZE": "1"},
        "adapter": {"MNRL_LORA_RANK": "4"},
    }.items():
        ended = mnrl_job("train", **good | guided | settings | {"MNRL_RUN_ID": run})
        assert ended.code == 0, ended.stderr
        found[run] = read(tmp_path / "out" / run / "metrics.json")["training"]
    assert 0 < found["one"]["masked_per_anchor"] < 7
    assert found["two"]["masked_per_anchor"] == found["one"]["masked_per_anchor"]
    assert found["two"]["final_loss"] == pytest.approx(found["one"]["final_loss"], abs=1e-5)
    assert found["adapter"]["final_loss"] > 0
    assert (found["one"]["loss"], found["one"]["guide_model"]) == ("guided", "guide")
    inputs = read(tmp_path / "out" / "one" / "manifest.json")["inputs"]
    assert inputs["guide_model"] == inputs["base_model"]
    assert "guided by `guide`" in card_of(tmp_path / "out" / "one")


@pytest.mark.parametrize("loss", ["mnrl", "guided"])
def test_hard_negatives_are_mined_on_one_worker_as_on_two(mnrl_job, good, tmp_path, tiny_model, loss):
    """Some have none, since no document is less similar than their positive; they must not spoil a batch."""
    (tmp_path / "guide").symlink_to(tiny_model)
    wanted = {"MNRL_LOSS": loss, "MNRL_HARD_NEGATIVES": "2", "MNRL_HARD_NEGATIVE_MARGIN": "0", "MNRL_PRECISION": "fp32"}
    wanted |= {"MNRL_GUIDE_MODEL": "guide"} if loss == "guided" else {"MNRL_MINE_EVERY": "epoch", "MNRL_EPOCHS": "2"}
    wanted |= {"MNRL_BATCH_SIZE": "4"}
    found = {}
    for processes in ("1", "2"):
        ended = mnrl_job("train", **good | wanted | {"MNRL_RUN_ID": processes, "MNRL_NUM_PROCESSES": processes})
        assert ended.code == 0, ended.stderr
        found[processes] = read(tmp_path / "out" / processes / "metrics.json")["training"]
    one, two = found.values()
    assert [mining["step"] for mining in one["minings"]] == ([0] if loss == "guided" else [0, 1])
    assert 0 < one["minings"][0]["found"] < 1
    assert one["negatives_per_anchor"] == 3 * one["global_batch_size"] - 1
    assert one["masked_per_anchor"] == two["masked_per_anchor"] > 0
    assert two["final_loss"] == pytest.approx(one["final_loss"], abs=1e-4)
    assert "2 hard negatives mined for each pair" in card_of(tmp_path / "out" / "1")


def test_a_guide_that_is_not_there_is_told_before_anything_is_read(mnrl_job, good, tmp_path):
    guided = {"MNRL_LOSS": "guided", "MNRL_GUIDE_MODEL": "./nowhere"}
    for command in ("train", "check"):
        ended = mnrl_job(command, **good | guided)
        assert ended.code == 66, ended.stderr
        assert "MNRL_GUIDE_MODEL: ./nowhere is not a folder" in ended.stdout + ended.stderr
    (tmp_path / "empty").mkdir()
    ended = mnrl_job("train", **good | guided | {"MNRL_GUIDE_MODEL": "empty"})
    assert ended.code == 66
    assert "MNRL_GUIDE_MODEL" in ended.last_line


def test_vectors_that_may_be_cut_are_scored_at_each_dimension(mnrl_job, good, tmp_path):
    ended = mnrl_job("train", **good | {"MNRL_MATRYOSHKA_DIMS": "16,4", "MNRL_LEARNING_RATE": "1e-3"})
    assert ended.code == 0, ended.stderr
    assert "whole vectors, of 32 dimensions, are not trained; put 32 first" in ended.stderr
    run = tmp_path / "out" / "r"
    metrics = read(run / "metrics.json")
    assert metrics["training"]["matryoshka_dims"] == [16, 4]
    found = metrics["evaluation"]["faq"]["dimensions"]
    assert list(found) == ["16", "4"]
    lines = [line.split() for line in ended.stdout.splitlines()]
    for dimension, scores in found.items():
        before, after = scores["before"]["ndcg@10"], scores["after"]["ndcg@10"]
        assert [dimension, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"] in lines
        assert f"| faq | {dimension} | ndcg@10 | {before:.4f} | {after:.4f} |" in card_of(run)
    assert "the first 16 or 4 numbers of a vector serve by themselves" in card_of(run)
    scored = mnrl_job(
        "evaluate", **good | {"MNRL_BASE_MODEL": "out/r/model", "MNRL_RUN_ID": "e", "MNRL_MATRYOSHKA_DIMS": "4"}
    )
    assert scored.code == 0, scored.stderr
    again = read(tmp_path / "out" / "e" / "metrics.json")["evaluation"]["faq"]["dimensions"]
    assert again == {"4": {"before": found["4"]["after"], "after": {}}}


def test_more_dimensions_than_the_model_has_are_refused(mnrl_job, good):
    ended = mnrl_job("train", **good | {"MNRL_MATRYOSHKA_DIMS": "384,16"})
    assert ended.code == 64
    assert "MNRL_MATRYOSHKA_DIMS=384,16: the model has 32 dimensions; give 32 or fewer" in ended.last_line


def test_all_options_together_teach_two_workers_what_they_teach_one(mnrl_job, good, tmp_path):
    """With texts that repeat, so that some are masked."""
    rows = [(anchor, PAIRS[row % 5][1]) for row, (anchor, _) in enumerate(PAIRS)]
    write_jsonl(tmp_path / "pairs.jsonl", [{"anchor": a, "positive": p, "negative": f"{p} not"} for a, p in rows])
    options = {
        "MNRL_LOSS": "gte",
        "MNRL_HARDNESS": "5",
        "MNRL_MATRYOSHKA_DIMS": "32,8",
        "MNRL_QUERY_PROMPT": "where is ",
        "MNRL_BATCHING": "masked",
        "MNRL_PRECISION": "fp32",
        "MNRL_EPOCHS": "3",
    }
    found = {}
    for workers, texts in (("1", "auto"), ("2", "1")):
        chosen = {"MNRL_RUN_ID": f"w{workers}", "MNRL_NUM_PROCESSES": workers, "MNRL_MINI_BATCH_SIZE": texts}
        ended = mnrl_job("train", **good | options | chosen)
        assert ended.code == 0, ended.stderr
        found[workers] = read(tmp_path / "out" / f"w{workers}" / "metrics.json")["training"]
    assert found["1"]["masked_per_anchor"] == found["2"]["masked_per_anchor"] > 0
    assert found["2"]["final_loss"] == pytest.approx(found["1"]["final_loss"], abs=1e-4)
