"""Model and eval set to rankings and metrics: the one function called before and after, so they cannot drift."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from sentence_transformers import SentenceTransformer

from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.precision import Precision
from mnrl_job.evaluation.judgements import Judged, read_judged
from mnrl_job.evaluation.metrics import mean_metrics, ranking_metrics
from mnrl_job.json_text import dumps
from mnrl_job.records import EvalSet, Evaluation, QueryResult
from mnrl_job.runtime.heartbeat import beat
from mnrl_job.runtime.tables import read_table, take

SCORES_AT_ONCE = 2**26  # 256 MiB of fp32
TOP_KEPT = 10
SAMPLED_TEXTS = 64


def evaluate(
    model: SentenceTransformer,
    eval_set: EvalSet,
    precision: Precision,
    cutoffs: Sequence[int],
    results: Path,
    dimensions: tuple[int, ...] = (),
    tokens: Path | None = None,
) -> Evaluation:
    """Embed with this precision and rank the whole corpus for every query by cosine similarity in fp32.

    Metrics are taken at each of the `cutoffs`. All ranks embed their share and hold all embeddings afterwards; the
    first rank writes one `QueryResult` a line to `results`. Rankings are made again with the first so many numbers of
    each embedding, for each of `dimensions`. The tokens of the texts are kept in the folder `tokens`, the eval set's
    own if there is none.

    Returns:
        The mean metrics, the same on every rank.
    """
    began = time.perf_counter()
    queries = read_table(eval_set.folder / "queries.arrow")
    corpus = read_table(eval_set.folder / "corpus.arrow")
    judged = read_judged(eval_set, queries, corpus)
    tokens = tokens or eval_set.folder
    asked = encode(model, queries["text"], "query", precision, tokens / "query-tokens.arrow")
    found = encode(model, corpus["text"], "document", precision, tokens / "document-tokens.arrow")
    ranked = list(rank(asked, found, judged, cutoffs))
    if PartialState().is_main_process:
        with results.open("w", encoding="utf-8") as handle:
            handle.writelines(dumps(asdict(one), ensure_ascii=False) + "\n" for one in ranked)
    metrics = mean_metrics([one.metrics for one in ranked])
    shorter = {}
    for dimension in dimensions:
        queries_cut, corpus_cut = (torch.nn.functional.normalize(side[:, :dimension]) for side in (asked, found))
        shorter[str(dimension)] = mean_metrics([one.metrics for one in rank(queries_cut, corpus_cut, judged, cutoffs)])
    return Evaluation(eval_set.name, metrics, results, time.perf_counter() - began, shorter)


def estimate_seconds(model: SentenceTransformer, eval_set: EvalSet, precision: Precision) -> float:
    """How long `evaluate` would take, by embedding a sample of the documents."""
    texts = read_table(eval_set.folder / "corpus.arrow")["text"]
    sample = take(texts, np.arange(0, len(texts), max(1, len(texts) // SAMPLED_TEXTS))[:SAMPLED_TEXTS])
    seconds = []
    for _ in range(2):  # the first call tokenises and warms up
        began = time.perf_counter()
        encode(model, sample, "document", precision, eval_set.folder / "sample-tokens.arrow")
        seconds.append(time.perf_counter() - began)
    return min(seconds) / len(sample) * (eval_set.documents + eval_set.queries)


def rank(queries: torch.Tensor, corpus: torch.Tensor, judged: Judged, cutoffs: Sequence[int]) -> Iterator[QueryResult]:
    """Rank the corpus for each query, as many queries at a time as `SCORES_AT_ONCE` holds.

    A document that is the query itself is in no place of its ranking, as in BEIR.

    Args:
        queries: embeddings, shape (queries, dimension).
        corpus: embeddings, shape (documents, dimension).
        judged: the ids of both, in order, and what is relevant.
        cutoffs: the k of the metrics.
    """
    row_of = {identifier: row for row, identifier in enumerate(judged.documents)}
    depth = min(max(*cutoffs, TOP_KEPT), len(row_of))
    at_once = max(1, SCORES_AT_ONCE // len(row_of))
    for start in range(0, len(judged.queries), at_once):
        beat()
        asked = judged.queries[start : start + at_once]
        scores = queries[start : start + at_once] @ corpus.T
        own = [(offset, row_of[query]) for offset, query in enumerate(asked) if query in judged.own]
        if own:
            scores[tuple(torch.tensor(own, device=scores.device).T)] = -torch.inf
        best = torch.topk(scores, depth, dim=1)
        for offset, query in enumerate(asked):
            relevant = judged.grades[query]
            ranking = [
                (judged.documents[row], score)
                for row, score in zip(best.indices[offset].tolist(), best.values[offset].tolist(), strict=True)
                if score > -math.inf
            ]
            best_relevant = scores[offset, [row_of[document] for document in relevant]].max()
            grades = [relevant.get(document, 0) for document, _ in ranking]
            yield QueryResult(
                query_id=query,
                rank=int((scores[offset] > best_relevant).sum()) + 1,
                score=float(best_relevant),
                metrics=ranking_metrics(grades, list(relevant.values()), cutoffs),
                top=tuple(ranking[:TOP_KEPT]),
            )
