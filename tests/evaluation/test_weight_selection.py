"""Which fraction of the trained weights is published."""

import numpy as np
import pytest

from mnrl_job.evaluation.weight_selection import choose_alpha, interpolation_points

QUERIES = 400
# Differences between queries that all fractions share: only paired comparisons see through them.
EASE = np.random.default_rng(0).uniform(0.2, 0.8, QUERIES)
NOISE = np.random.default_rng(1).normal(0, 0.1, QUERIES)


def scores(**means):
    """Scores of each query, by fraction in percent; those of the odd percentages are noisy around their mean."""
    result = {}
    for name, mean in means.items():
        alpha = int(name[1:]) / 100
        noise = NOISE - NOISE.mean() if alpha not in (0.0, 1.0) else 0
        result[alpha] = EASE + mean + noise
    return result


def chosen(selection, general_search):
    return choose_alpha(interpolation_points(selection, general_search))


def test_of_the_fractions_that_score_alike_the_one_that_forgets_least_is_chosen():
    selection = scores(a0=0.0, a25=0.05, a50=0.097, a75=0.1, a100=0.099)
    guard = scores(a0=0.05, a25=0.04, a50=0.03, a75=0.02, a100=-0.2)
    points = interpolation_points(selection, guard)
    assert [point.alpha for point in points if point.within_noise] == [0.75, 1.0]
    assert choose_alpha(points) == 0.75, "0.5 forgets less, but is worse on every query"


def test_a_fraction_within_the_noise_of_the_best_is_preferred_if_it_forgets_less():
    selection = scores(a0=0.0, a50=0.098, a100=0.1)
    guard = scores(a0=0.0, a50=-0.01, a100=-0.1)
    assert chosen(selection, guard) == 0.5


def test_the_base_model_is_never_chosen():
    selection = scores(a0=0.2, a50=0.1, a100=0.0)
    assert chosen(selection, scores(a0=0.0, a50=-0.01, a100=-0.1)) == 0.5


@pytest.mark.parametrize("base", [None, -0.2], ids=["no general guard", "a base model that cannot do general search"])
def test_without_a_meaningful_guard_the_best_fraction_is_chosen(base):
    selection = scores(a0=0.0, a50=0.098, a100=0.1)
    guard = None if base is None else scores(a0=base, a50=base, a100=base - 0.1)
    assert chosen(selection, guard) == 1.0


def test_one_query_is_enough():
    points = interpolation_points({0.0: [0.1], 0.5: [0.4], 1.0: [0.3]}, None)
    assert choose_alpha(points) == 0.5
