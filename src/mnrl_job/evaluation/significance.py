"""Statistical significance of gains: paired bootstrap intervals and randomization p-values over the queries."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from mnrl_job.evaluation.metrics import mean_metrics
from mnrl_job.evaluation.results import QueryResult

RESAMPLES = 2_000
MAX_VALUES = 4_000_000
# Smaller differences are rounding errors.
TOLERANCE = 1e-12


class WinsLosses(TypedDict):
    """Numbers of queries that improved, got worse, or did not change."""

    won: int
    lost: int
    tied: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Metrics of an eval set before and after training, with gains, intervals and p-values.

    Without training all but `before` and `bm25` is empty. `dimensions` has the metrics of truncated embeddings by
    their number of dimensions.
    """

    name: str
    before: dict[str, float]
    after: dict[str, float] = field(default_factory=dict)
    delta: dict[str, float] = field(default_factory=dict)
    confidence_interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    p_value: dict[str, float] = field(default_factory=dict)
    wins_losses: dict[str, WinsLosses] = field(default_factory=dict)
    bm25: dict[str, float] | None = None
    dimensions: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SignificanceResult:
    """95 % interval of the mean gain, and the p-value of the null hypothesis that before and after are the same."""

    low: float
    high: float
    p_value: float


def significance_test(gains: NDArray[np.float64], seed: int) -> list[SignificanceResult]:
    """Test the gain of each metric over the queries, shape (queries, metrics), with the same resamples for all metrics.

    The interval is the percentile bootstrap over queries (Efron 1979); the p-value that of a two-sided
    sign-flip randomization test (Smucker et al. 2007). It counts the observed outcome, so it is never 0.
    """
    rng = np.random.default_rng(seed)
    queries = len(gains)
    rows = max(1, MAX_VALUES // queries)
    means: list[NDArray[np.float64]] = []
    extreme = np.zeros(gains.shape[1])
    for start in range(0, RESAMPLES, rows):
        shape = (min(rows, RESAMPLES - start), queries)
        means.append(_draw_counts(rng, *shape) @ gains / queries)
        flipped = rng.choice((-1.0, 1.0), shape) @ gains / queries
        extreme += (np.abs(flipped) >= np.abs(gains.mean(axis=0)) - TOLERANCE).sum(axis=0)
    bounds = np.quantile(np.concatenate(means), (0.025, 0.975), axis=0).T.tolist()
    p_values = ((extreme + 1) / (RESAMPLES + 1)).tolist()
    return [SignificanceResult(low, high, p_value) for (low, high), p_value in zip(bounds, p_values, strict=True)]


def _draw_counts(rng: np.random.Generator, resamples: int, queries: int) -> NDArray[np.float64]:
    """Counts of each query in each bootstrap resample, shape (resamples, queries)."""
    drawn = rng.integers(0, queries, (resamples, queries)) + queries * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def compare(name: str, before: list[QueryResult], after: list[QueryResult], seed: int) -> Comparison:
    """Compare two results of an eval set, which must have the queries in the same order."""
    per_query_before, per_query_after = ([query.metrics for query in results] for results in (before, after))
    metrics = list(per_query_before[0])
    gains = np.array(
        [[new[key] - old[key] for key in metrics] for old, new in zip(per_query_before, per_query_after, strict=True)]
    )
    tests = dict(zip(metrics, significance_test(gains, seed), strict=True))
    means_before, means_after = mean_metrics(per_query_before), mean_metrics(per_query_after)
    return Comparison(
        name=name,
        before=means_before,
        after=means_after,
        delta={metric: means_after[metric] - value for metric, value in means_before.items()},
        confidence_interval={metric: (test.low, test.high) for metric, test in tests.items()},
        p_value={metric: test.p_value for metric, test in tests.items()},
        wins_losses={metric: _wins_losses(column) for metric, column in zip(metrics, gains.T, strict=True)},
    )


def _wins_losses(gains: NDArray[np.float64]) -> WinsLosses:
    won, lost = int((gains > TOLERANCE).sum()), int((gains < -TOLERANCE).sum())
    return {"won": won, "lost": lost, "tied": len(gains) - won - lost}
