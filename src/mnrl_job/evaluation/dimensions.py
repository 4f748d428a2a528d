"""Before against after with shorter embeddings, for models trained so that these are of use."""

from mnrl_job.evaluation.results import Evaluation


def by_dimension(before: Evaluation, after: Evaluation | None) -> dict[str, dict[str, dict[str, float]]]:
    """For each number of dimensions the metrics `before` and `after`; the latter are empty for an evaluation only."""
    return {
        dimension: {"before": metrics, "after": after.dimensions[dimension] if after else {}}
        for dimension, metrics in before.dimensions.items()
    }
