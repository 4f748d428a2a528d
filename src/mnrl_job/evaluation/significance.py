"""How sure the gain is: paired bootstrap intervals and randomisation p-values over the queries."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnrl_job.evaluation.metrics import mean_metrics
from mnrl_job.records import Comparison, QueryResult

RESAMPLES = 2_000
VALUES_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Certainty:
    """A 95 % interval of the mean gain, and the chance of a gain this large if before and after were the same."""

    low: float
    high: float
    p_value: float


def certainty(before: NDArray[np.float64], after: NDArray[np.float64], seed: int) -> Certainty:
    """Compare one metric, query by query.

    The interval is the percentile bootstrap over queries (Efron 1979); the p-value a two-sided sign-flip
    randomisation test (Smucker et al. 2007), counted with the observed outcome, so that it is never 0.

    Args:
        before: the metric of each query before training, shape (queries,).
        after: the same queries after.
        seed: of the resampling.
    """
    gains = after - before
    rng = np.random.default_rng(seed)
    rows = max(1, VALUES_AT_ONCE // len(gains))
    means: list[NDArray[np.float64]] = []
    extreme = 0
    for start in range(0, RESAMPLES, rows):
        shape = (min(rows, RESAMPLES - start), len(gains))
        means.append(gains[rng.integers(0, len(gains), shape)].mean(axis=1))
        flipped = (gains * rng.choice((-1.0, 1.0), shape)).mean(axis=1)
        extreme += int((np.abs(flipped) >= abs(gains.mean()) - 1e-12).sum())
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Certainty(float(low), float(high), (extreme + 1) / (RESAMPLES + 1))


def compare(name: str, before: list[QueryResult], after: list[QueryResult], seed: int) -> Comparison:
    """Set the two results of one eval set side by side, every metric with its certainty. Queries come in one order."""
    old, new = ([query.metrics for query in results] for results in (before, after))
    sure = {
        metric: certainty(np.array([query[metric] for query in old]), np.array([query[metric] for query in new]), seed)
        for metric in old[0]
    }
    means_before, means_after = mean_metrics(old), mean_metrics(new)
    return Comparison(
        name=name,
        before=means_before,
        after=means_after,
        delta={metric: means_after[metric] - value for metric, value in means_before.items()},
        confidence={metric: (one.low, one.high) for metric, one in sure.items()},
        p_value={metric: one.p_value for metric, one in sure.items()},
    )
