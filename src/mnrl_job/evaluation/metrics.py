"""Retrieval metrics of one ranking, as trec_eval defines them."""

import math
from collections.abc import Mapping, Sequence


def ranking_metrics(ranked: Sequence[int], judged: Sequence[int], cutoffs: Sequence[int]) -> dict[str, float]:
    """Score one query's ranking at every cutoff k.

    accuracy@k is 1 where a relevant document is among the first k; precision@k divides the relevant ones found by k,
    recall@k by all relevant ones; mrr@k is 1/rank of the first; map@k averages the precision at each relevant rank
    over all relevant documents; ndcg@k discounts graded gains by log2(rank + 1) and divides by the best possible
    (Järvelin & Kekäläinen 2002).

    Args:
        ranked: grade of each retrieved document, best first; 0 where it is not relevant.
        judged: grades of all relevant documents of the query, in any order, each above 0.
        cutoffs: the k, each at least 1.
    """
    metrics: dict[str, float] = {}
    ideal = sorted(judged, reverse=True)
    for k in cutoffs:
        hits = [rank for rank, grade in enumerate(ranked[:k], start=1) if grade > 0]
        metrics[f"accuracy@{k}"] = float(bool(hits))
        metrics[f"precision@{k}"] = len(hits) / k
        metrics[f"recall@{k}"] = len(hits) / len(judged)
        metrics[f"mrr@{k}"] = 1 / hits[0] if hits else 0.0
        metrics[f"map@{k}"] = sum(count / rank for count, rank in enumerate(hits, start=1)) / len(judged)
        metrics[f"ndcg@{k}"] = _discounted(ranked[:k]) / _discounted(ideal[:k])
    return metrics


def _discounted(grades: Sequence[int]) -> float:
    return math.fsum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1) if grade > 0)


def mean_metrics(queries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the queries."""
    return {name: math.fsum(query[name] for query in queries) / len(queries) for name in queries[0]}
