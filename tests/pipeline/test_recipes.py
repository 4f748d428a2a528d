"""Whole runs with each option of loss and model, on a tiny one: what comes out, and what it says about itself.

Options that do not touch one another share a run.
"""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from tests.examples import PAIRS, fill, write_jsonl
from tests.program import run_command

WITH_NEGATIVES = [{"anchor": a, "positive": p, "negative": f"{p} not"} for a, p in PAIRS]
# So that some are masked.
REPEATED = [row | {"positive": PAIRS[number % 5][1]} for number, row in enumerate(WITH_NEGATIVES)]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def card_of(run):
    return (run / "model" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shaped(tmp_path_factory, tiny_model):
    """A run whose base model is in bf16 and has prompts, with negatives weighed by hardness, and vectors to be cut.

    Returns its folder, its settings, and how it ended.
    """
    folder = tmp_path_factory.mktemp("shaped")
    base = SentenceTransformer(str(tiny_model), device="cpu").to(torch.bfloat16)
    base.prompts = {"query": "where is my ", "document": "open "}
    base.save_pretrained(str(folder / "base"), create_model_card=False)
    settings = fill(folder, folder / "base") | {
        "MNRL_LOSS": "gte",
        "MNRL_HARDNESS": "hard_negatives:5",
        "MNRL_MATRYOSHKA_DIMS": "16,4",
        "MNRL_QUERY_PROMPT": "add ",
        "MNRL_LEARNING_RATE": "1e-3",
    }
    write_jsonl(folder / "pairs.jsonl", REPEATED)
    ended = run_command(folder, "train", **settings)
    assert ended.code == 0, ended.stderr
    return folder, settings, ended


def test_loss_and_hardness_are_told(shaped):
    run = shaped[0] / "out" / "r"
    training = read(run / "metrics.json")["training"]
    assert (training["loss"], training["hardness"]) == ("gte", "hard_negatives:5")
    assert training["masked_per_anchor"] > 0
    assert "loss `gte`, scale 20, hardness weighting `hard_negatives:5`" in card_of(run)


def test_prompts_are_trained_with_evaluated_with_and_saved(shaped):
    """Those that the settings give, else the base model's own."""
    run = shaped[0] / "out" / "r"
    prompts = {"query": "add ", "document": "open "}
    assert read(run / "metrics.json")["model"]["prompts"] == prompts
    assert SentenceTransformer(str(run / "model"), device="cpu").prompts == prompts
    assert 'prompts `"add "` before each query and `"open "` before each document' in card_of(run)


def test_a_model_published_in_bf16_is_trained_and_saved_in_fp32(shaped):
    """In bf16 the small steps of the optimizer would be rounded away."""
    saved = load_file(shaped[0] / "out" / "r" / "model" / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    weight = saved["encoder.layer.0.output.dense.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())


def test_vectors_that_may_be_cut_are_scored_at_each_dimension(shaped):
    folder, settings, ended = shaped
    assert re.search(r"\b32 dimensions.*\b32 first", ended.stderr)
    run = folder / "out" / "r"
    metrics = read(run / "metrics.json")
    assert metrics["training"]["matryoshka_dims"] == [16, 4]
    found = metrics["evaluation"]["faq"]["dimensions"]
    assert list(found) == ["16", "4"]
    lines = [line.split() for line in ended.stdout.splitlines()]
    for dimension, scores in found.items():
        before, after = scores["before"]["ndcg@10"], scores["after"]["ndcg@10"]
        assert [dimension, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"] in lines
        assert f"| faq | {dimension} | ndcg@10 | {before:.4f} | {after:.4f} |" in card_of(run)
    assert "truncated to the first 16 or 4 dimensions" in card_of(run)
    scored = run_command(
        *(folder, "evaluate"),
        **settings | {"MNRL_BASE_MODEL": "out/r/model", "MNRL_RUN_ID": "e", "MNRL_MATRYOSHKA_DIMS": "4"},
    )
    assert scored.code == 0, scored.stderr
    again = read(folder / "out" / "e" / "metrics.json")["evaluation"]["faq"]["dimensions"]
    assert again == {"4": {"before": found["4"]["after"], "after": {}}}


GUIDED = {
    "MNRL_LOSS": "guided",
    "MNRL_GUIDE_MODEL": "guide",
    "MNRL_HARDNESS": "5",
    "MNRL_MATRYOSHKA_DIMS": "32,8",
    "MNRL_QUERY_PROMPT": "where is ",
    "MNRL_BATCH_SIZE": "4",
}
# Some pairs have none, since no document is less similar than their positive; they must not spoil a batch.
MINED = {"MNRL_NUM_HARD_NEGATIVES": "2", "MNRL_HARD_NEGATIVE_RELATIVE_MARGIN": "0", "MNRL_MINING_INTERVAL": "epoch"}


def on_one_and_two(folder, tiny_model, options, rows=None):
    """What training comes to, by the number of workers; on two, one text is embedded at a time."""
    (folder / "guide").symlink_to(tiny_model)
    settings = fill(folder, tiny_model) | {"MNRL_PRECISION": "fp32", "MNRL_EPOCHS": "2"} | options
    if rows:
        write_jsonl(folder / "pairs.jsonl", rows)
    found = {}
    for workers, texts in (("1", "auto"), ("2", "1")):
        chosen = {"MNRL_RUN_ID": workers, "MNRL_NUM_PROCESSES": workers, "MNRL_MINI_BATCH_SIZE": texts}
        ended = run_command(folder, "train", **settings | chosen)
        assert ended.code == 0, ended.stderr
        found[workers] = read(folder / "out" / workers / "metrics.json")["training"]
    return found["1"], found["2"]


def assert_alike(one, two):
    assert two["masked_per_anchor"] == one["masked_per_anchor"] > 0
    assert two["final_loss"] == pytest.approx(one["final_loss"], abs=1e-4)


@pytest.fixture(scope="module")
def guided(tmp_path_factory, tiny_model):
    """Runs on one worker and on two, guided, with negatives mined before each epoch, and all that goes with these."""
    folder = tmp_path_factory.mktemp("guided")
    return folder, *on_one_and_two(folder, tiny_model, GUIDED | MINED)


def test_a_guide_mined_negatives_and_other_options_teach_two_workers_what_they_teach_one(guided):
    _, one, two = guided
    assert_alike(one, two)
    assert [mining["step"] for mining in one["hard_negative_mining"]] == [0, 1]


def test_a_guide_is_an_input_and_is_told(guided):
    folder, one, _ = guided
    assert (one["loss"], one["guide_model"]) == ("guided", "guide")
    inputs = read(folder / "out" / "1" / "manifest.json")["inputs"]
    assert inputs["guide_model"] == inputs["base_model"]
    assert "guided by `guide`" in card_of(folder / "out" / "1")


def test_hard_negatives_that_were_mined_are_told(guided):
    folder, one, _ = guided
    assert 0 < one["hard_negative_mining"][0]["found"] < 1
    wanted = 2 * one["global_batch_size"]
    assert 0 < one["negatives_per_anchor"] - (one["global_batch_size"] - 1) < wanted, "those that were found"
    assert "2 mined hard negatives per pair" in card_of(folder / "out" / "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (MINED | {"MNRL_BATCH_SIZE": "4"}, None),
        ({"MNRL_LOSS": "guided", "MNRL_GUIDE_MODEL": "guide"}, None),
        ({"MNRL_LOSS": "guided", "MNRL_GUIDE_MODEL": "guide", "MNRL_LORA_RANK": "4"}, None),
        (
            {"MNRL_LOSS": "gte", "MNRL_HARDNESS": "5", "MNRL_MATRYOSHKA_DIMS": "32,8"},
            REPEATED,
        ),
        ({"MNRL_LOSS": "symmetric"}, REPEATED),
    ],
)
def test_each_recipe_teaches_two_workers_what_it_teaches_one(tmp_path, tiny_model, options, rows):
    assert_alike(*on_one_and_two(tmp_path, tiny_model, options, rows))


def test_a_guide_that_is_not_there_is_told_before_anything_is_read(mnrl_job, good, tmp_path):
    guided = {"MNRL_LOSS": "guided", "MNRL_GUIDE_MODEL": "./nowhere"}
    for command in ("train", "check"):
        ended = mnrl_job(command, **good | guided)
        assert ended.code == 66, ended.stderr
        assert "MNRL_GUIDE_MODEL: ./nowhere " in ended.stdout + ended.stderr
    (tmp_path / "empty").mkdir()
    ended = mnrl_job("train", **good | guided | {"MNRL_GUIDE_MODEL": "empty"})
    assert ended.code == 66
    assert "MNRL_GUIDE_MODEL: empty " in ended.last_line
