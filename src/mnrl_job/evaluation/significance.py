"""How sure the gain is: paired bootstrap intervals and randomisation p-values over the queries."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from mnrl_job.evaluation.metrics import mean_metrics
from mnrl_job.evaluation.results import QueryResult

RESAMPLES = 2_000
VALUES_AT_ONCE = 4_000_000
# Less is rounding.
SAME = 1e-12


class Changes(TypedDict):
    """How many queries got better, worse, or stayed."""

    won: int
    lost: int
    tied: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """One eval set before and after: each metric's values, gain, interval and p-value. No `after`: evaluation only.

    `wins_losses` counts the queries that won, lost or tied; `bm25` what the words alone would find.
    `dimensions` has, for embeddings cut to so many numbers, each metric's values `before` and `after`.
    """

    name: str
    before: dict[str, float]
    after: dict[str, float] = field(default_factory=dict)
    delta: dict[str, float] = field(default_factory=dict)
    confidence_interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    p_value: dict[str, float] = field(default_factory=dict)
    wins_losses: dict[str, Changes] = field(default_factory=dict)
    bm25: dict[str, float] | None = None
    dimensions: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SignificanceResult:
    """A 95 % interval of the mean gain, and the chance of a gain this large if before and after were the same."""

    low: float
    high: float
    p_value: float


def significance_test(gains: NDArray[np.float64], seed: int) -> list[SignificanceResult]:
    """Judge the gain of each metric, query by query; all metrics from the same resamples.

    The interval is the percentile bootstrap over queries (Efron 1979); the p-value a two-sided sign-flip
    randomisation test (Smucker et al. 2007), counted with the observed outcome, so that it is never 0.

    Args:
        gains: after minus before, shape (queries, metrics).
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    queries = len(gains)
    rows = max(1, VALUES_AT_ONCE // queries)
    means: list[NDArray[np.float64]] = []
    extreme = np.zeros(gains.shape[1])
    for start in range(0, RESAMPLES, rows):
        shape = (min(rows, RESAMPLES - start), queries)
        means.append(_draws(rng, *shape) @ gains / queries)
        flipped = rng.choice((-1.0, 1.0), shape) @ gains / queries
        extreme += (np.abs(flipped) >= np.abs(gains.mean(axis=0)) - SAME).sum(axis=0)
    bounds = np.quantile(np.concatenate(means), (0.025, 0.975), axis=0).T.tolist()
    p_values = ((extreme + 1) / (RESAMPLES + 1)).tolist()
    return [SignificanceResult(low, high, p_value) for (low, high), p_value in zip(bounds, p_values, strict=True)]


def _draws(rng: np.random.Generator, resamples: int, queries: int) -> NDArray[np.float64]:
    """How often each query is drawn in each resample, shape (resamples, queries)."""
    drawn = rng.integers(0, queries, (resamples, queries)) + queries * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def compare(name: str, before: list[QueryResult], after: list[QueryResult], seed: int) -> Comparison:
    """Set the two results of one eval set side by side, every metric with its certainty. Queries come in one order."""
    old, new = ([query.metrics for query in results] for results in (before, after))
    metrics = list(old[0])
    gains = np.array([[late[one] - early[one] for one in metrics] for early, late in zip(old, new, strict=True)])
    sure = dict(zip(metrics, significance_test(gains, seed), strict=True))
    means_before, means_after = mean_metrics(old), mean_metrics(new)
    return Comparison(
        name=name,
        before=means_before,
        after=means_after,
        delta={metric: means_after[metric] - value for metric, value in means_before.items()},
        confidence_interval={metric: (one.low, one.high) for metric, one in sure.items()},
        p_value={metric: one.p_value for metric, one in sure.items()},
        wins_losses={metric: _changes(column) for metric, column in zip(metrics, gains.T, strict=True)},
    )


def _changes(gains: NDArray[np.float64]) -> Changes:
    won, lost = int((gains > SAME).sum()), int((gains < -SAME).sum())
    return {"won": won, "lost": lost, "tied": len(gains) - won - lost}
