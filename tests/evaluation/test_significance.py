"""How sure a gain is."""

import numpy as np

from mnrl_job.evaluation.significance import certainty


def test_a_real_gain_is_told_from_noise():
    rng = np.random.default_rng(0)
    before = rng.random(300)
    noise, gain = rng.normal(0, 0.1, 300), rng.normal(0.05, 0.1, 300)
    nothing, something = certainty(before, before + noise - noise.mean(), 1), certainty(before, before + gain, 1)
    assert nothing.low < 0 < nothing.high
    assert nothing.p_value > 0.9
    assert 0 < something.low < gain.mean() < something.high
    assert something.p_value < 0.001


def test_no_change_at_all_is_no_evidence():
    same = certainty(np.ones(10), np.ones(10), 1)
    assert (same.low, same.high, same.p_value) == (0.0, 0.0, 1.0)


def test_the_interval_holds_the_true_gain_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        sure = certainty(np.zeros(100), rng.normal(0.1, 1.0, 100), trial)
        hits += sure.low <= 0.1 <= sure.high
    assert 0.88 <= hits / 200 <= 0.99
