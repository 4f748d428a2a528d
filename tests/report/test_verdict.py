"""The verdict at the top of the page."""

import json

import pytest

from mnrl_job.report.page.verdict import reach_verdict
from tests.report.page_reader import Reader
from tests.report.run_outputs import log, make_run_outputs, set_change

LOSS = (-0.15, -0.05)


def test_the_verdict_comes_first_with_the_gain_and_its_significance(run):
    page = run.page()
    evaluation = run.metrics["evaluation"]["faq"]
    low, high = evaluation["confidence_interval"]["ndcg@10"]
    text = Reader(page).text
    assert page.index("<h1") < page.index("<h2")
    assert "Better: of 30 questions, 5 → 13 get a right answer first 30 → 30 find one among the first ten." in text
    scores = f"{evaluation['before']['ndcg@10']:.3f} → {evaluation['after']['ndcg@10']:.3f}"
    gain = f"ndcg@10 rose by {evaluation['delta']['ndcg@10']:.3f}: {scores} on faq, 95 % interval {low:+.3f}"
    assert gain in text
    assert f"to {high:+.3f}, p = {evaluation['p_value']['ndcg@10']:.4f} over 30 queries" in text
    assert "Significant: the interval lies entirely above zero" in text


@pytest.mark.parametrize(
    ("delta", "interval", "p_value", "word", "sure"),
    [
        (-0.1, (-0.15, -0.05), 0.001, "Worse", "Significant"),
        (0.01, (-0.02, 0.04), 0.4, "Not proven", "Not significant"),
        (0.01, (0.001, 0.02), 0.06, "Not proven", "Not significant"),
        (0.0, (0.0, 0.0), 1.0, "No change", "Not significant"),
        (-0.1, (-0.15, -0.05), 0.25, "Worse", "Borderline"),
    ],
)
def test_the_verdict_depends_on_the_interval_and_the_p_value(run, delta, interval, p_value, word, sure):
    evaluation = run.metrics["evaluation"]["faq"]
    evaluation["delta"]["ndcg@10"], evaluation["confidence_interval"]["ndcg@10"], evaluation["p_value"]["ndcg@10"] = (
        delta,
        interval,
        p_value,
    )
    verdict = reach_verdict(run.metrics, [])
    assert (verdict.label, verdict.interpretation.partition(":")[0]) == (word, sure)


@pytest.mark.parametrize(
    ("delta", "interval", "p_value", "word"),
    [(0.0, (0.0, 0.0), 1.0, "Cannot tell"), (-0.01, (-0.02, 0.0), 0.4, "Cannot tell"), (-0.1, LOSS, 0.001, "Worse")],
)
def test_the_verdict_on_a_saturated_eval_set_is_that_it_cannot_tell(run, delta, interval, p_value, word):
    evaluation, metric = run.metrics["evaluation"]["faq"], "ndcg@10"
    evaluation["delta"][metric], evaluation["confidence_interval"][metric], evaluation["p_value"][metric] = (
        delta,
        interval,
        p_value,
    )
    run.metrics["primary_metric"]["saturated"] = True
    verdict = reach_verdict(run.metrics, [])
    assert verdict.label == word
    assert ("this eval set cannot show a gain" in verdict.claim) == (word == "Cannot tell")
    assert "Not proven" not in Reader(run.page()).text


def test_the_verdict_warns_of_losses_a_failed_gate_and_a_collapse(tmp_path):
    run = make_run_outputs(tmp_path, queries=30, names=("faq", "other"))
    other = run.metrics["evaluation"]["other"]
    other["delta"]["ndcg@10"], other["confidence_interval"]["ndcg@10"] = -0.2, (-0.3, -0.1)
    run.metrics["gate"] = {"passed": False, "rule": "a gain of 0.5", "failed": ["it rose by less than 0.5"]}
    lines = log()
    lines[30]["collapse"] = "unrelated documents look alike"
    (run.staging / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = Reader(run.page()).text
    assert "ndcg@10 fell significantly on other (−0.200)." in text
    assert "The gate was not passed: it rose by less than 0.5." in text
    assert "The embeddings collapsed at step 31: unrelated documents look alike." in text
    assert "No collapse." not in text
    run.metrics["training"]["collapse"] = ""
    assert "They had not at the step whose weights were kept." in Reader(run.page()).text


def test_without_eval_sets_the_verdict_is_not_evaluated(run):
    run.eval_sets.clear()
    run.metrics |= {"evaluation": {}, "primary_metric": None}
    run.metrics["training"] |= {"scores": [], "best_step": None}
    text = Reader(run.page()).text
    assert "Not evaluated: without an eval set" in text
    assert "All queries" not in text
    assert "Learning rate" in text


@pytest.mark.parametrize(
    ("rises", "claim", "detail"),
    [
        (True, "of 30 questions, 5 → 13 get a right answer first", "30 → 30 find one among the first ten."),
        (False, "ndcg@10 fell by 0.100", "Of 30 questions, 5 → 13 get a right answer first, 30 → 30 find one"),
    ],
)
def test_the_claim_is_in_plain_words_unless_the_primary_metric_moved_the_other_way(run, rises, claim, detail):
    if not rises:
        set_change(run, -0.1, LOSS, 0.001)
        run.metrics["primary_metric"]["delta"] = -0.1
    page = Reader(run.page())
    assert f"{'Better' if rises else 'Worse'}: {claim} {detail}" in page.text
