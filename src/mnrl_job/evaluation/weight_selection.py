"""Choose how much of the trained weights to publish, from scores on texts that are not reported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mnrl_job.evaluation.general_guard import MIN_BASE_SCORE

# Fractions of the trained weights that are scored; 0 is the base model, for comparison.
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
# With fewer the choice would be chance.
MIN_QUERIES = 100

Scores = Mapping[float, Sequence[float]]


@dataclass(frozen=True, slots=True)
class InterpolationPoint:
    """Mean scores with a fraction `alpha` of the trained weights; `within_noise` of the best on the selection split.

    `general_search` is on the half of the general guard that is not reported; None without it.
    """

    alpha: float
    selection: float
    general_search: float | None
    within_noise: bool


def interpolation_points(selection: Scores, general_search: Scores | None) -> tuple[InterpolationPoint, ...]:
    """Compare the scores of each query, by fraction, with those of the best fraction above 0.

    A fraction is within the noise of the best if the mean difference is at most its standard error over the queries,
    as in the one-standard-error rule (Breiman et al. 1984, section 3.4.3).
    """
    by_alpha = {alpha: np.asarray(scores, dtype=np.float64) for alpha, scores in selection.items()}
    best = max((alpha for alpha in by_alpha if alpha), key=lambda alpha: float(by_alpha[alpha].mean()))
    points = []
    for alpha, scores in by_alpha.items():
        loss = by_alpha[best] - scores
        noise = loss.std(ddof=1) / np.sqrt(len(loss)) if len(loss) > 1 else 0.0
        guard = float(np.mean(general_search[alpha])) if general_search else None
        points.append(InterpolationPoint(alpha, float(scores.mean()), guard, bool(loss.mean() <= noise)))
    return tuple(points)


def choose_alpha(points: Sequence[InterpolationPoint]) -> float:
    """Of the fractions within the noise of the best, that with the highest score on general search.

    Without a general guard, or where the base model scores below `MIN_BASE_SCORE` on it, the best fraction.
    """
    base = next(point for point in points if not point.alpha)
    candidates = [point for point in points if point.alpha and point.within_noise]
    if base.general_search is None or base.general_search < MIN_BASE_SCORE:
        return max(candidates, key=lambda point: point.selection).alpha
    return max(candidates, key=lambda point: (point.general_search or 0.0, point.selection)).alpha
