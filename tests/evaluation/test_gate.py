"""The gate: what counts as good enough."""

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.evaluation.gate import evaluate_gate
from mnrl_job.evaluation.significance import Comparison

LOST, GAINED = (-0.6, -0.4), (0.1, 0.2)


def compared(name, delta, p_value, interval=(-0.6, 0.6), before=0.5):
    metrics = ("ndcg@10", "mrr@10")
    return Comparison(
        name,
        before=dict.fromkeys(metrics, before),
        after=dict.fromkeys(metrics, before + delta),
        delta=dict.fromkeys(metrics, delta),
        confidence_interval=dict.fromkeys(metrics, interval),
        p_value=dict.fromkeys(metrics, p_value),
    )


@pytest.mark.parametrize(
    ("rules", "gain", "guard", "passes"),
    [
        ({}, (-0.5, 0.5), (-0.5, 0.001), True),
        ({"min_gain": 0.01}, (0.01, 0.9), (-0.5, 0.001), True),
        ({"min_gain": 0.01}, (0.009, 0.001), (0.0, 1.0), False),
        ({"min_gain": -0.02}, (-0.01, 0.5), (0.0, 1.0), True),
        ({"max_p_value": 0.05}, (0.2, 0.04), (0.0, 1.0), True),
        ({"max_p_value": 0.05}, (0.2, 0.06), (0.0, 1.0), False),
        ({"max_p_value": 0.05}, (-0.2, 0.01), (0.0, 1.0), False),
        ({"guard_evals": "general"}, (0.2, 0.01), (-0.001, 0.9), False),
        ({"guard_evals": "general"}, (0.2, 0.01), (0.0, 1.0), True),
        ({"guard_evals": "general", "max_p_value": 0.05}, (0.2, 0.01), (-0.001, 0.9), True),
        ({"guard_evals": "general", "max_p_value": 0.05}, (0.2, 0.01), (-0.1, 0.01), False),
    ],
)
def test_a_model_passes_where_it_gained_enough_and_no_guard_got_worse(rules, gain, guard, passes):
    verdict = evaluate_gate(Settings.model_validate(rules), (compared("faq", *gain), compared("general", *guard)))
    assert verdict.passed == passes
    assert bool(verdict.failed) != passes


@pytest.mark.parametrize(
    ("rules", "interval", "collapse", "failed"),
    [
        ({}, LOST, "", ["faq.ndcg@10 fell from 0.5000 to 0.0000"]),
        ({}, LOST, "all look alike", ["faq.ndcg@10 fell", "the embeddings collapsed: all look alike"]),
        ({}, (-0.6, 0.0), "", []),
        ({}, (-0.6, 0.1), None, []),
        ({}, GAINED, "all look alike", ["the embeddings collapsed"]),
        ({"min_gain": -0.9}, LOST, "", []),
        ({"min_gain": -0.9}, LOST, "all look alike", ["the embeddings collapsed"]),
        ({"min_gain": -1}, LOST, "all look alike", []),
        ({"min_gain": -1, "max_p_value": 0.05}, LOST, "all look alike", ["with a p-value of"]),
        ({"min_gain": -1, "guard_evals": "faq"}, LOST, "all look alike", ["MNRL_GUARD_EVALS guards it"]),
        ({"guard_evals": "faq"}, LOST, "", ["faq.ndcg@10 fell from", "MNRL_GUARD_EVALS guards it"]),
    ],
)
def test_without_a_gate_a_sure_loss_or_a_collapse_is_no_success(rules, interval, collapse, failed):
    verdict = evaluate_gate(Settings.model_validate(rules), (compared("faq", -0.5, 0.001, interval),), collapse)
    assert verdict.passed == (not failed)
    assert len(verdict.failed) == len(failed)
    assert all(wanted in told for wanted, told in zip(failed, verdict.failed, strict=True))


def test_a_loss_on_another_eval_set_than_the_primary_is_no_failure():
    sets = compared("faq", 0.1, 0.001, GAINED), compared("general", -0.5, 0.001, LOST)
    assert evaluate_gate(Settings(), sets).passed
    assert not evaluate_gate(Settings(primary_metric="general.ndcg@10"), sets).passed


@pytest.mark.parametrize(("collapse", "passes"), [("", True), (None, True), ("all look alike", False)])
def test_without_an_eval_set_embeddings_still_must_not_collapse(collapse, passes):
    assert evaluate_gate(Settings(), (), collapse).passed == passes
    assert evaluate_gate(Settings(min_gain=-1), (), collapse).passed


def test_a_gain_that_no_model_could_show_is_told():
    verdict = evaluate_gate(Settings(min_gain=0.01), (compared("faq", 0.0, 1.0, before=1.0),))
    assert "was 1 before: this eval set cannot show a gain" in verdict.failed[0]


def test_what_was_not_met_is_told_with_its_figures():
    rules = Settings(min_gain=0.05, guard_evals=("general",), primary_metric="faq.mrr@10")
    verdict = evaluate_gate(rules, (compared("general", -0.25, 0.01), compared("faq", 0.04, 0.01)))
    assert verdict.rule == (
        "faq.mrr@10 rises by 0.05 or more; general.mrr@10 does not fall; the embeddings do not collapse"
    )
    assert verdict.failed == (
        "faq.mrr@10 changed by +0.0400, MNRL_MIN_GAIN is 0.05",
        "general.mrr@10 fell by 0.2500, and MNRL_GUARD_EVALS guards it",
    )
