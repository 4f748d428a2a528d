"""Significance of gains."""

import numpy as np

from mnrl_job.evaluation.results import QueryResult
from mnrl_job.evaluation.significance import compare, significance_test


def significance_of(gains, seed):
    (result,) = significance_test(gains[:, None], seed)
    return result


def test_a_gain_is_distinguished_from_noise():
    rng = np.random.default_rng(0)
    noise, gain = rng.normal(0, 0.1, 300), rng.normal(0.05, 0.1, 300)
    of_noise, of_gain = significance_of(noise - noise.mean(), 1), significance_of(gain, 1)
    assert of_noise.low < 0 < of_noise.high
    assert of_noise.p_value > 0.9
    assert 0 < of_gain.low < gain.mean() < of_gain.high
    assert of_gain.p_value < 0.001


def test_no_change_is_not_significant():
    same = significance_of(np.zeros(10), 1)
    assert (same.low, same.high, same.p_value) == (0.0, 0.0, 1.0)


def test_the_interval_covers_the_true_gain_in_about_95_percent_of_trials():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        result = significance_of(rng.normal(0.1, 1.0, 100), trial)
        hits += result.low <= 0.1 <= result.high
    assert 0.88 <= hits / 200 <= 0.99


def test_metrics_tested_together_have_the_results_of_each_alone():
    gains = np.random.default_rng(0).normal(0.02, 0.1, (50, 3))
    for column, together in zip(gains.T, significance_test(gains, 7), strict=True):
        alone = significance_of(column, 7)
        np.testing.assert_allclose((together.low, together.high), (alone.low, alone.high), rtol=1e-12)
        assert together.p_value == alone.p_value


def test_queries_are_counted_as_won_lost_and_tied():
    def results(*values):
        return [QueryResult(f"q{i}", 1, 1.0, {"mrr@10": value}, ()) for i, value in enumerate(values)]

    comparison = compare("faq", results(0.1, 0.5, 1.0, 1.0), results(1.0, 0.25, 1.0, 1.0), 1)
    assert comparison.wins_losses == {"mrr@10": {"won": 1, "lost": 1, "tied": 2}}
