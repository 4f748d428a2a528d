"""Metrics with truncated embeddings, for Matryoshka models."""

from mnrl_job.evaluation.results import Evaluation


def by_dimension(before: Evaluation, after: Evaluation | None) -> dict[str, dict[str, dict[str, float]]]:
    """The metrics `before` and `after` by number of dimensions; `after` is empty without training."""
    return {
        dimension: {"before": metrics, "after": after.dimensions[dimension] if after else {}}
        for dimension, metrics in before.dimensions.items()
    }
