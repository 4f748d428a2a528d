"""Retrieval metrics of one ranking, as trec_eval defines them."""

import math
from collections.abc import Mapping, Sequence


def ranking_metrics(ranked: Sequence[int], relevant: Sequence[int], cutoffs: Sequence[int]) -> dict[str, float]:
    """Score one query's ranking at every cutoff k.

    accuracy@k is 1 if a relevant document is among the first k; precision@k divides the relevant ones found by k,
    recall@k by the number of relevant ones; mrr@k is the reciprocal rank of the first; map@k averages the precision at
    each relevant rank over all relevant documents; ndcg@k discounts graded relevance by log2(rank + 1) and divides by
    the best possible (Järvelin & Kekäläinen 2002).

    Args:
        ranked: relevance of each retrieved document, best first; 0 if not relevant.
        relevant: relevance of all relevant documents of the query, in any order, each above 0.
        cutoffs: the values of k, each at least 1.
    """
    metrics: dict[str, float] = {}
    ideal = sorted(relevant, reverse=True)
    for k in cutoffs:
        hits = [rank for rank, relevance in enumerate(ranked[:k], start=1) if relevance > 0]
        metrics[f"accuracy@{k}"] = float(bool(hits))
        metrics[f"precision@{k}"] = len(hits) / k
        metrics[f"recall@{k}"] = len(hits) / len(relevant)
        metrics[f"mrr@{k}"] = 1 / hits[0] if hits else 0.0
        metrics[f"map@{k}"] = sum(count / rank for count, rank in enumerate(hits, start=1)) / len(relevant)
        metrics[f"ndcg@{k}"] = _dcg(ranked[:k]) / _dcg(ideal[:k])
    return metrics


def _dcg(relevances: Sequence[int]) -> float:
    return math.fsum(
        relevance / math.log2(rank + 1) for rank, relevance in enumerate(relevances, start=1) if relevance > 0
    )


def mean_metrics(queries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: math.fsum(query[name] for query in queries) / len(queries) for name in queries[0]}
