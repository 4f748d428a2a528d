"""The gate: which runs succeed."""

import pytest

from mnrl_job.evaluation.gate import GateConfig, evaluate_gate
from mnrl_job.evaluation.significance import Comparison

LOSS, GAIN = (-0.6, -0.4), (0.1, 0.2)


PRIMARY = ("", "ndcg@10")


def comparison(name, delta, p_value, interval=(-0.6, 0.6), before=0.5):
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
    ("config", "gain", "guard", "passes"),
    [
        ({}, (-0.5, 0.5), (-0.5, 0.001), True),
        ({"min_gain": 0.01}, (0.01, 0.9), (-0.5, 0.001), True),
        ({"min_gain": 0.01}, (0.009, 0.001), (0.0, 1.0), False),
        ({"min_gain": -0.02}, (-0.01, 0.5), (0.0, 1.0), True),
        ({"max_p_value": 0.05}, (0.2, 0.04), (0.0, 1.0), True),
        ({"max_p_value": 0.05}, (0.2, 0.06), (0.0, 1.0), False),
        ({"max_p_value": 0.05}, (-0.2, 0.01), (0.0, 1.0), False),
        ({"guard_evals": ("general",)}, (0.2, 0.01), (-0.001, 0.9), False),
        ({"guard_evals": ("general",)}, (0.2, 0.01), (0.0, 1.0), True),
        ({"guard_evals": ("general",), "max_p_value": 0.05}, (0.2, 0.01), (-0.001, 0.9), True),
        ({"guard_evals": ("general",), "max_p_value": 0.05}, (0.2, 0.01), (-0.1, 0.01), False),
    ],
)
def test_a_model_passes_with_enough_gain_and_no_loss_on_a_guard(config, gain, guard, passes):
    result = evaluate_gate(GateConfig(PRIMARY, **config), (comparison("faq", *gain), comparison("general", *guard)))
    assert result.passed == passes
    assert bool(result.failed) != passes


@pytest.mark.parametrize(
    ("config", "interval", "collapse", "failed"),
    [
        ({}, LOSS, "", ["faq.ndcg@10 fell from 0.5000 to 0.0000"]),
        ({}, LOSS, "all look alike", ["faq.ndcg@10 fell", "the embeddings collapsed: all look alike"]),
        ({}, (-0.6, 0.0), "", []),
        ({}, (-0.6, 0.1), None, []),
        ({}, GAIN, "all look alike", ["the embeddings collapsed"]),
        ({"min_gain": -0.9}, LOSS, "", []),
        ({"min_gain": -0.9}, LOSS, "all look alike", ["the embeddings collapsed"]),
        ({"min_gain": -1}, LOSS, "all look alike", []),
        ({"min_gain": -1, "max_p_value": 0.05}, LOSS, "all look alike", ["with a p-value of"]),
        ({"min_gain": -1, "guard_evals": ("faq",)}, LOSS, "all look alike", ["MNRL_GUARD_EVALS guards it"]),
        ({"guard_evals": ("faq",)}, LOSS, "", ["faq.ndcg@10 fell from", "MNRL_GUARD_EVALS guards it"]),
    ],
)
def test_a_significant_loss_or_a_collapse_fails_unless_accepted(config, interval, collapse, failed):
    result = evaluate_gate(GateConfig(PRIMARY, **config), (comparison("faq", -0.5, 0.001, interval),), collapse)
    assert result.passed == (not failed)
    assert len(result.failed) == len(failed)
    assert all(expected in failure for expected, failure in zip(failed, result.failed, strict=True))


def test_a_loss_on_another_eval_set_than_the_primary_one_passes():
    sets = comparison("faq", 0.1, 0.001, GAIN), comparison("general", -0.5, 0.001, LOSS)
    assert evaluate_gate(GateConfig(PRIMARY), sets).passed
    assert not evaluate_gate(GateConfig(("general", "ndcg@10")), sets).passed


@pytest.mark.parametrize(("collapse", "passes"), [("", True), (None, True), ("all look alike", False)])
def test_collapsed_embeddings_fail_without_an_eval_set_too(collapse, passes):
    assert evaluate_gate(GateConfig(PRIMARY), (), collapse).passed == passes
    assert evaluate_gate(GateConfig(PRIMARY, min_gain=-1), (), collapse).passed


def test_a_saturated_eval_set_is_named_in_the_failure():
    result = evaluate_gate(GateConfig(PRIMARY, min_gain=0.01), (comparison("faq", 0.0, 1.0, before=1.0),))
    assert "was 1 before: this eval set cannot show a gain" in result.failed[0]


def test_failures_name_the_metric_its_change_and_the_threshold():
    config = GateConfig(("faq", "mrr@10"), min_gain=0.05, guard_evals=("general",))
    result = evaluate_gate(config, (comparison("general", -0.25, 0.01), comparison("faq", 0.04, 0.01)))
    assert result.rule == (
        "faq.mrr@10 rises by 0.05 or more; general.mrr@10 does not fall; the embeddings do not collapse"
    )
    assert result.failed == (
        "faq.mrr@10 changed by +0.0400, MNRL_MIN_GAIN is 0.05",
        "general.mrr@10 fell by 0.2500, and MNRL_GUARD_EVALS guards it",
    )


@pytest.mark.parametrize(
    ("config", "guard", "failed", "warned"),
    [
        ({}, {"delta": -0.06, "p_value": 0.01}, False, True),
        ({}, {"delta": -0.06, "p_value": 0.06}, False, False),
        ({}, {"delta": 0.06, "p_value": 0.01}, False, False),
        ({"max_guard_loss": 0.05}, {"delta": -0.06, "p_value": 0.01}, True, False),
        ({"max_guard_loss": 0.05}, {"delta": -0.06, "p_value": 0.06}, True, False),
        ({"max_guard_loss": 0.05, "max_p_value": 0.05}, {"delta": -0.06, "p_value": 0.06}, False, False),
        ({"max_guard_loss": 0.05}, {"delta": -0.04, "p_value": 0.01}, False, True),
        ({"max_guard_loss": 0.05}, {"delta": 0.04, "p_value": 0.01}, False, False),
        ({"max_guard_loss": 0.05}, {"delta": -0.3, "p_value": 0.01, "before": 0.49}, False, True),
        ({"max_guard_loss": 0.05, "min_gain": -1}, {"delta": -0.3, "p_value": 0.01}, True, False),
    ],
)
def test_a_loss_of_general_search_fails_only_above_a_limit_that_is_set_and_is_warned_of_otherwise(
    config, guard, failed, warned
):
    sets = comparison("faq", 0.1, 0.001, GAIN), comparison("general-search", **guard)
    result = evaluate_gate(GateConfig(PRIMARY, **config), sets)
    assert bool(result.failed) == failed
    assert any("the model forgets" in warning for warning in result.warnings) == warned


def test_the_loss_of_general_search_is_named_with_its_limit_and_a_remedy():
    sets = comparison("faq", 0.1, 0.001, GAIN), comparison("general-search", -0.06, 0.01, (-0.08, -0.03), before=0.56)
    result = evaluate_gate(GateConfig(("faq", "mrr@10"), max_guard_loss=0.05), sets)
    assert result.failed == (
        "general search: ndcg@10 fell from 0.56 to 0.50, by 0.0600, MNRL_MAX_GUARD_LOSS is 0.05; the model forgets: "
        "lower MNRL_WEIGHT_INTERPOLATION or MNRL_LEARNING_RATE, or train fewer steps",
    )
    assert "general-search.ndcg@10 falls by 0.05 at most" in result.rule
    assert evaluate_gate(GateConfig(PRIMARY), sets).warnings == (
        "general search: ndcg@10 fell from 0.56 to 0.50 (95 % interval of the change -0.08 to -0.03); the model "
        "forgets: lower MNRL_WEIGHT_INTERPOLATION or MNRL_LEARNING_RATE, or train fewer steps",
    )


def test_a_base_model_below_one_half_on_general_search_is_not_judged_by_it():
    sets = comparison("faq", 0.1, 0.001, GAIN), comparison("general-search", -0.3, 0.01, before=0.4)
    result = evaluate_gate(GateConfig(PRIMARY, max_guard_loss=0.05), sets)
    assert result.passed
    assert "general-search" not in result.rule
    assert "MNRL_MAX_GUARD_LOSS does not apply: ndcg@10 of the base model is 0.40, below 0.5" in result.warnings[0]
