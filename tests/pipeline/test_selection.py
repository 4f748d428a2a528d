"""Training pairs that are kept to select weights on, so that nothing that reports does."""

import random
import re

import numpy as np
import pytest

from mnrl_job.data.tables import read_table
from mnrl_job.evaluation.weight_selection import ALPHAS, InterpolationPoint, choose_alpha
from tests.examples import PAIRS, read_metrics, write_pairs

AUTO = {"MNRL_WEIGHT_INTERPOLATION": "auto", "MNRL_GENERAL_GUARD": "on"}
ROWS = 6_000


def many_pairs(rows):
    """Pairs of random words that the tiny model knows; three of the positive's are also the anchor's."""
    words = sorted({word for pair in PAIRS for text in pair for word in text.split()})
    drawn = (random.Random(row).sample(words, 14) for row in range(rows))
    return [(" ".join(some[:6]), " ".join(some[3:])) for some in drawn]


def texts_of_split(split):
    return set(read_table(split.folder / "queries.arrow")["text"].to_pylist())


def test_a_twentieth_is_kept_from_training_and_from_the_reported_eval_set(prepared):
    result = prepared(many_pairs(ROWS), batch_size=64)
    trained = {row["anchor"] for row in read_table(result.pairs.path).to_pylist()}
    (holdout,) = result.eval_sets
    reported, selection = texts_of_split(holdout), texts_of_split(result.selection_split)
    assert len(reported) == ROWS // 10
    assert len(selection) == ROWS * 9 // 10 // 20
    assert len(trained) == ROWS - len(reported) - len(selection)
    assert not trained & reported
    assert not trained & selection
    assert not reported & selection
    corpus = set(read_table(result.selection_split.folder / "corpus.arrow")["text"].to_pylist())
    assert not corpus & set(read_table(holdout.folder / "qrels.arrow")["document"].to_pylist())
    assert len(corpus) == 2 * len(selection)


def test_at_most_a_thousand_pairs_are_kept(prepared):
    result = prepared(many_pairs(24_000), batch_size=64, holdout_ratio=0)
    assert len(texts_of_split(result.selection_split)) == 1_000


@pytest.mark.parametrize(
    ("rows", "settings"),
    [(4_000, {}), (ROWS, {"weight_interpolation": "off"}), (ROWS, {"weight_interpolation": 0.5})],
    ids=["few pairs", "off", "a number"],
)
def test_no_pair_is_kept_where_nothing_is_selected(prepared, rows, settings):
    result = prepared(many_pairs(rows), batch_size=64, holdout_ratio=0, **settings)
    assert result.selection_split is None
    assert result.pairs.rows == rows


def test_near_duplicates_of_kept_pairs_are_kept_from_training(prepared):
    """Each positive occurs twice, almost."""
    words = [" ".join(f"{i // 2}word{at}" for at in range(40)) for i in range(400)]
    rows = [(f"question {i}", f"{text} {i % 2}") for i, text in enumerate(words)]
    result = prepared(rows, batch_size=8, holdout_ratio=0, eval_interval="5")
    trained = {row["positive"].rpartition(" ")[0] for row in read_table(result.pairs.path).to_pylist()}
    judged = set(read_table(result.selection_split.folder / "qrels.arrow")["document"].to_pylist())
    documents = read_table(result.selection_split.folder / "corpus.arrow").to_pylist()
    assert len(judged) == 10
    assert not trained & {row["text"].rpartition(" ")[0] for row in documents if row["id"] in judged}


@pytest.mark.parametrize(
    "kind", [{}, pytest.param({"MNRL_LORA_RANK": "4"}, marks=pytest.mark.slow)], ids=["all weights", "an adapter"]
)
def test_a_run_publishes_the_fraction_that_the_rule_selects_and_says_so(mnrl_job, good, tmp_path, kind):
    write_pairs(tmp_path / "pairs.jsonl", many_pairs(ROWS))
    ended = mnrl_job("train", **good | AUTO | kind | {"MNRL_MAX_STEPS": "3", "MNRL_LEARNING_RATE": "2e-2"})
    assert ended.code == 0, ended.stderr
    run = tmp_path / "out" / "r"
    metrics = read_metrics(run)
    training = metrics["training"]
    points = [InterpolationPoint(**point) for point in training["interpolation_points"]]
    assert [point.alpha for point in points] == list(ALPHAS)
    assert len({point.selection for point in points}) > 1
    assert len({point.general_search for point in points}) > 1
    assert training["weight_interpolation"] == choose_alpha(points)
    assert list(metrics["evaluation"]) == ["faq", "general-search"], "the selection sets are not reported"
    assert metrics["verification"]["reloaded"]
    assert f"keeping {ROWS // 20} of {ROWS} pairs to select weights on" in ended.stderr
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "General search by fraction of trained weights" in page


def test_the_best_step_is_selected_on_kept_pairs_also_without_an_eval_set(mnrl_job, good, tmp_path):
    write_pairs(tmp_path / "pairs.jsonl", PAIRS + [(f"{a} twice", f"{p} again") for a, p in PAIRS])
    settings = {"MNRL_EVAL_DATA": "", "MNRL_HOLDOUT_RATIO": "0", "MNRL_EVAL_INTERVAL": "1", "MNRL_EPOCHS": "3"}
    ended = mnrl_job("train", **good | settings)
    assert ended.code == 0, ended.stderr
    metrics = read_metrics(tmp_path / "out" / "r")
    assert metrics["evaluation"] == {}
    assert len(metrics["training"]["scores"]) == metrics["training"]["steps"]
    assert "selected on 1 queries only" in ended.stderr


def test_data_of_which_nothing_can_be_kept_is_refused_only_if_steps_are_scored(mnrl_job, good, tmp_path):
    write_pairs(tmp_path / "pairs.jsonl", [(f"question {i}", "the same answer") for i in range(12)])
    ended = mnrl_job("train", **good | {"MNRL_EVAL_INTERVAL": "1"})
    assert ended.code == 65
    assert re.search("MNRL_EVAL_INTERVAL: no group of the 12 rows is small enough", ended.last_line)


def test_the_same_pairs_are_kept_whatever_the_number_of_steps(prepared):
    rows = many_pairs(ROWS)
    one, two = (prepared(rows, batch_size=64, max_steps=steps, holdout_ratio=0) for steps in (1, 5))
    assert np.array_equal(one.selection_split.sha256, two.selection_split.sha256)
