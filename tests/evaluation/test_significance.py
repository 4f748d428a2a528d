"""How sure a gain is."""

import numpy as np

from mnrl_job.evaluation.results import QueryResult
from mnrl_job.evaluation.significance import compare, significance_test


def of_one(gains, seed):
    (sure,) = significance_test(gains[:, None], seed)
    return sure


def test_a_real_gain_is_told_from_noise():
    rng = np.random.default_rng(0)
    noise, gain = rng.normal(0, 0.1, 300), rng.normal(0.05, 0.1, 300)
    nothing, something = of_one(noise - noise.mean(), 1), of_one(gain, 1)
    assert nothing.low < 0 < nothing.high
    assert nothing.p_value > 0.9
    assert 0 < something.low < gain.mean() < something.high
    assert something.p_value < 0.001


def test_no_change_at_all_is_no_evidence():
    same = of_one(np.zeros(10), 1)
    assert (same.low, same.high, same.p_value) == (0.0, 0.0, 1.0)


def test_the_interval_holds_the_true_gain_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        sure = of_one(rng.normal(0.1, 1.0, 100), trial)
        hits += sure.low <= 0.1 <= sure.high
    assert 0.88 <= hits / 200 <= 0.99


def test_metrics_judged_together_are_judged_as_each_alone():
    gains = np.random.default_rng(0).normal(0.02, 0.1, (50, 3))
    for column, together in zip(gains.T, significance_test(gains, 7), strict=True):
        alone = of_one(column, 7)
        np.testing.assert_allclose((together.low, together.high), (alone.low, alone.high), rtol=1e-12)
        assert together.p_value == alone.p_value


def test_queries_are_counted_as_won_lost_and_tied():
    def results(*values):
        return [QueryResult(f"q{i}", 1, 1.0, {"mrr@10": value}, ()) for i, value in enumerate(values)]

    compared = compare("faq", results(0.1, 0.5, 1.0, 1.0), results(1.0, 0.25, 1.0, 1.0), 1)
    assert compared.wins_losses == {"mrr@10": {"won": 1, "lost": 1, "tied": 2}}
