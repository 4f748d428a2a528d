"""Evaluates a model on an eval set: rankings and metrics, in the same way before and after training."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.tables import read_table, take
from mnrl_job.embedding.device_memory import scores_per_tile
from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.precision import Precision
from mnrl_job.evaluation.metrics import mean_metrics, ranking_metrics
from mnrl_job.evaluation.qrels import Qrels, read_qrels
from mnrl_job.evaluation.results import Evaluation, QueryResult
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.json_text import dumps

TOP_DOCUMENTS = 10
SAMPLE_SIZE = 64


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How a model is evaluated, also truncated to each of `dimensions`; similarities are computed in fp32."""

    precision: Precision
    cutoffs: Sequence[int]
    dimensions: Sequence[int] = ()


def evaluate(model: SentenceTransformer, eval_set: EvalSet, options: EvaluationOptions, results: Path) -> Evaluation:
    """Rank the whole corpus for every query by cosine similarity.

    Each rank embeds its slice of the texts and receives all embeddings. The main process writes a `QueryResult` per
    line to `results`. Token ids are cached in the folder of the eval set.

    Returns:
        The mean metrics, the same on every rank.
    """
    started = time.perf_counter()
    queries = read_table(eval_set.folder / "queries.arrow")
    corpus = read_table(eval_set.folder / "corpus.arrow")
    judged = read_qrels(eval_set, queries, corpus)
    folder = eval_set.folder
    precision, cutoffs = options.precision, options.cutoffs
    query_embeddings = encode(model, queries["text"], "query", precision, folder / "query-tokens.arrow")
    document_embeddings = encode(model, corpus["text"], "document", precision, folder / "document-tokens.arrow")
    query_results = list(rank(query_embeddings, document_embeddings, judged, cutoffs))
    if PartialState().is_main_process:
        with results.open("w", encoding="utf-8") as handle:
            handle.writelines(dumps(asdict(result), ensure_ascii=False) + "\n" for result in query_results)
    by_dimension = {}
    for dimension in options.dimensions:
        truncated_queries = normalize(query_embeddings[:, :dimension])
        truncated_documents = normalize(document_embeddings[:, :dimension])
        rankings = rank(truncated_queries, truncated_documents, judged, cutoffs)
        by_dimension[str(dimension)] = mean_metrics([result.metrics for result in rankings])
    metrics = mean_metrics([result.metrics for result in query_results])
    return Evaluation(eval_set.name, metrics, results, time.perf_counter() - started, by_dimension)


def estimate_seconds(model: SentenceTransformer, eval_set: EvalSet, precision: Precision) -> float:
    """The estimated duration of `evaluate`, from embedding a sample of the documents."""
    texts = read_table(eval_set.folder / "corpus.arrow")["text"]
    sample = take(texts, np.arange(0, len(texts), max(1, len(texts) // SAMPLE_SIZE))[:SAMPLE_SIZE])
    seconds = []
    for _ in range(2):  # the first call tokenizes and warms up
        started = time.perf_counter()
        encode(model, sample, "document", precision, eval_set.folder / "sample-tokens.arrow")
        seconds.append(time.perf_counter() - started)
    return min(seconds) / len(sample) * (eval_set.documents + eval_set.queries)


def rank(queries: torch.Tensor, corpus: torch.Tensor, judged: Qrels, cutoffs: Sequence[int]) -> Iterator[QueryResult]:
    """Rank the corpus for each query, in tiles of queries that fit into memory, by embeddings in the order of `judged`.

    A document with the id of the query is excluded from its ranking, as in BEIR. The metrics are at each of `cutoffs`.
    """
    row_of = {identifier: row for row, identifier in enumerate(judged.documents)}
    depth = min(max(*cutoffs, TOP_DOCUMENTS), len(row_of))
    tile_size = max(1, scores_per_tile(corpus.device) // len(row_of))
    relevant = [[row_of[document] for document in judged.grades[query]] for query in judged.queries]
    excluded = [[row_of[query]] if query in judged.own else [] for query in judged.queries]
    relevant_rows, excluded_rows = (DocumentRows.of(rows, corpus.device) for rows in (relevant, excluded))
    for start in range(0, len(judged.queries), tile_size):
        heartbeat()
        tile = judged.queries[start : start + tile_size]
        scores = queries[start : start + tile_size] @ corpus.T
        scores[excluded_rows.slice(start, len(tile))] = -torch.inf
        rankings = rank_rows(scores, relevant_rows.slice(start, len(tile)), depth)
        for query, (best_rank, best_score, rows, top_scores) in zip(tile, rankings, strict=True):
            top = zip(rows, top_scores, strict=True)
            ranking = [(judged.documents[row], score) for row, score in top if score > -math.inf]
            grades = [judged.grades[query].get(document, 0) for document, _ in ranking]
            yield QueryResult(
                query_id=query,
                rank=best_rank,
                score=best_score,
                metrics=ranking_metrics(grades, list(judged.grades[query].values()), cutoffs),
                top=tuple(ranking[:TOP_DOCUMENTS]),
            )


@dataclass(frozen=True, slots=True)
class DocumentRows:
    """Rows of documents for each query, on the device.

    `pairs` are rows of query and document, ordered by query, shape (2, n), `offsets` those of each query in it.
    """

    pairs: torch.Tensor
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rows: list[list[int]], device: torch.device) -> "DocumentRows":
        counts = np.array([len(documents) for documents in rows], dtype=np.int64)
        documents = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=counts.sum())
        pairs = torch.from_numpy(np.stack([np.repeat(np.arange(len(rows)), counts), documents]))
        return cls(pairs.to(device), np.concatenate([[0], counts.cumsum()]))

    def slice(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column of each document in the scores of `count` queries from `first`."""
        queries, documents = self.pairs[:, self.offsets[first] : self.offsets[first + count]]
        return queries - first, documents


def rank_rows(
    scores: torch.Tensor, relevant: tuple[torch.Tensor, torch.Tensor], depth: int
) -> Iterator[tuple[int, float, list[int], list[float]]]:
    """Rank documents on the device, and copy all results to the host at once, since each copy synchronizes.

    Args:
        scores: shape (queries, documents).
        relevant: rows and columns of the relevant ones.
        depth: number of top documents.

    Yields:
        For each query rank and score of its best relevant document, rows and scores of the top documents.
    """
    top = scores.topk(depth, dim=1)
    best = scores.new_full((len(scores),), -torch.inf).scatter_reduce_(0, relevant[0], scores[relevant], "amax")
    ranks = (scores > best[:, None]).sum(dim=1) + 1
    # fp64 represents row numbers and fp32 scores exactly.
    packed = torch.cat([part.double() for part in (ranks[:, None], best[:, None], top.indices, top.values)], dim=1)
    on_host = packed.cpu().numpy()
    rows = on_host[:, 2 : 2 + depth].astype(np.int64).tolist()
    for (rank, score), top_rows, top_scores in zip(
        on_host[:, :2].tolist(), rows, on_host[:, 2 + depth :].tolist(), strict=True
    ):
        yield int(rank), score, top_rows, top_scores
