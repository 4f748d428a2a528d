"""Model and eval set to rankings and metrics: the one function called before and after, so they cannot drift."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from accelerate.utils import gather, pad_across_processes
from sentence_transformers import SentenceTransformer

from mnrl_job.evaluation.metrics import mean_metrics, ranking_metrics
from mnrl_job.records import EvalSet, Evaluation, QueryResult
from mnrl_job.runtime.logs import shows_progress
from mnrl_job.runtime.tables import read_table
from mnrl_job.settings import METRIC_CUTOFFS

SCORES_AT_ONCE = 2**26  # 256 MiB of fp32
TOP_KEPT = 10
SAMPLED_TEXTS = 64


def evaluate(model: SentenceTransformer, eval_set: EvalSet, results: Path) -> Evaluation:
    """Rank the whole corpus for every query by cosine similarity in fp32.

    All ranks embed their share and hold all embeddings afterwards; the first rank writes one `QueryResult` a line to
    `results`.

    Returns:
        The mean metrics, the same on every rank.
    """
    began = time.perf_counter()
    queries = read_table(eval_set.folder / "queries.arrow")
    corpus = read_table(eval_set.folder / "corpus.arrow")
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    judgements = read_table(eval_set.folder / "judgements.arrow")
    for query, document, grade in zip(*(column.to_pylist() for column in judgements.columns), strict=True):
        if grade > 0:
            grades[query][document] = grade
    query_embeddings = embed(model, queries["text"].to_pylist(), "query")
    corpus_embeddings = embed(model, corpus["text"].to_pylist(), "document")
    ranked = list(
        rank(query_embeddings, corpus_embeddings, queries["id"].to_pylist(), corpus["id"].to_pylist(), grades)
    )
    if PartialState().is_main_process:
        with results.open("w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in ranked)
    metrics = mean_metrics([one.metrics for one in ranked])
    return Evaluation(eval_set.name, metrics, results, time.perf_counter() - began)


def estimate_seconds(model: SentenceTransformer, eval_set: EvalSet) -> float:
    """How long `evaluate` would take, by embedding a sample of the documents."""
    texts = read_table(eval_set.folder / "corpus.arrow")["text"].to_pylist()
    sample = texts[:: max(1, len(texts) // SAMPLED_TEXTS)][:SAMPLED_TEXTS]
    embed(model, sample[:1], "document")  # the first call also warms up
    began = time.perf_counter()
    embed(model, sample, "document")
    return (time.perf_counter() - began) / len(sample) * (eval_set.documents + eval_set.queries)


def embed(model: SentenceTransformer, texts: list[str], kind: Literal["query", "document"]) -> torch.Tensor:
    """Unit-length fp32 embeddings, shape (texts, dimension), each rank computing every n-th."""
    state = PartialState()
    encode = model.encode_query if kind == "query" else model.encode_document
    ranks = state.num_processes
    # Every rank embeds at least one text, so that all have a tensor of the same width to gather.
    own = texts[state.process_index :: ranks] or texts[:1]
    part = encode(
        own,
        convert_to_tensor=True,
        normalize_embeddings=True,
        show_progress_bar=state.is_main_process and shows_progress() and len(own) > 1000,
    ).float()
    if ranks == 1:
        return part
    every: torch.Tensor = gather(pad_across_processes(part, dim=0)).view(ranks, -1, part.shape[1])
    return every.transpose(0, 1).reshape(-1, part.shape[1])[: len(texts)]


def rank(
    queries: torch.Tensor,
    corpus: torch.Tensor,
    query_ids: list[str],
    corpus_ids: list[str],
    grades: dict[str, dict[str, int]],
) -> Iterator[QueryResult]:
    """Rank the corpus for each query, as many queries at a time as `SCORES_AT_ONCE` holds.

    Args:
        queries: embeddings, shape (queries, dimension).
        corpus: embeddings, shape (documents, dimension).
        query_ids: ids of `queries`, in order.
        corpus_ids: ids of `corpus`, in order.
        grades: the relevant documents of each query with their grades.
    """
    row_of = {identifier: row for row, identifier in enumerate(corpus_ids)}
    depth = min(max(METRIC_CUTOFFS), len(corpus_ids))
    at_once = max(1, SCORES_AT_ONCE // len(corpus_ids))
    for start in range(0, len(query_ids), at_once):
        scores = queries[start : start + at_once] @ corpus.T
        best = torch.topk(scores, depth, dim=1)
        for offset, query in enumerate(query_ids[start : start + at_once]):
            relevant = grades[query]
            documents = [corpus_ids[row] for row in best.indices[offset].tolist()]
            best_relevant = scores[offset, [row_of[document] for document in relevant]].max()
            yield QueryResult(
                query_id=query,
                rank=int((scores[offset] > best_relevant).sum()) + 1,
                score=float(best_relevant),
                metrics=ranking_metrics([relevant.get(d, 0) for d in documents], list(relevant.values())),
                top=tuple(zip(documents[:TOP_KEPT], best.values[offset].tolist()[:TOP_KEPT], strict=True)),
            )
