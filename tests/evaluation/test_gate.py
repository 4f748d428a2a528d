"""The gate: what counts as good enough."""

import pytest

from mnrl_job.evaluation.gate import judge
from mnrl_job.records import Comparison
from mnrl_job.settings import Settings


def compared(name, delta, p_value):
    metrics = ("ndcg@10", "mrr@10")
    return Comparison(
        name,
        before=dict.fromkeys(metrics, 0.5),
        after=dict.fromkeys(metrics, 0.5 + delta),
        delta=dict.fromkeys(metrics, delta),
        p_value=dict.fromkeys(metrics, p_value),
    )


@pytest.mark.parametrize(
    ("rules", "gain", "guard", "passes"),
    [
        ({}, (-0.5, 0.001), (-0.5, 0.001), True),
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
    verdict = judge(Settings.model_validate(rules), (compared("faq", *gain), compared("general", *guard)))
    assert verdict.passed == passes
    assert bool(verdict.failed) != passes
    assert (verdict.rule == "none") == (not rules)


def test_what_was_not_met_is_told_with_its_figures():
    rules = Settings(min_gain=0.05, guard_evals=("general",), primary_metric="faq.mrr@10")
    verdict = judge(rules, (compared("general", -0.25, 0.01), compared("faq", 0.04, 0.01)))
    assert verdict.rule == "faq.mrr@10 rises by 0.05 or more; general.mrr@10 does not fall"
    assert verdict.failed == (
        "faq.mrr@10 changed by +0.0400, MNRL_MIN_GAIN is 0.05",
        "general.mrr@10 fell by 0.2500, and MNRL_GUARD_EVALS guards it",
    )
