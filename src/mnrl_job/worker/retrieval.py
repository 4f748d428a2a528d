"""Model and eval set to rankings and metrics: the one function called before and after, so they cannot drift."""

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

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.tables import read_table, take
from mnrl_job.embedding.device_memory import scores_at_once
from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.precision import Precision
from mnrl_job.evaluation.metrics import mean_metrics, ranking_metrics
from mnrl_job.evaluation.qrels import Qrels, read_qrels
from mnrl_job.evaluation.results import Evaluation, QueryResult
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.json_text import dumps

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
    judged = read_qrels(eval_set, queries, corpus)
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


def rank(queries: torch.Tensor, corpus: torch.Tensor, judged: Qrels, cutoffs: Sequence[int]) -> Iterator[QueryResult]:
    """Rank the corpus for each query, as many queries at a time as a tile of scores holds.

    A document that is the query itself is in no place of its ranking, as in BEIR.

    Args:
        queries: embeddings, shape (queries, dimension).
        corpus: embeddings, shape (documents, dimension).
        judged: the ids of both, in order, and what is relevant.
        cutoffs: the k of the metrics.
    """
    row_of = {identifier: row for row, identifier in enumerate(judged.documents)}
    depth = min(max(*cutoffs, TOP_KEPT), len(row_of))
    at_once = max(1, scores_at_once(corpus.device) // len(row_of))
    relevant = [[row_of[document] for document in judged.grades[query]] for query in judged.queries]
    itself = [[row_of[query]] if query in judged.own else [] for query in judged.queries]
    known, left_out = (DocumentRows.of(rows, corpus.device) for rows in (relevant, itself))
    for start in range(0, len(judged.queries), at_once):
        heartbeat()
        asked = judged.queries[start : start + at_once]
        scores = queries[start : start + at_once] @ corpus.T
        scores[left_out.within(start, len(asked))] = -torch.inf
        for query, ranked in zip(asked, ranked_rows(scores, known.within(start, len(asked)), depth), strict=True):
            ranking = [
                (judged.documents[row], score)
                for row, score in zip(ranked.rows, ranked.scores, strict=True)
                if score > -math.inf
            ]
            grades = [judged.grades[query].get(document, 0) for document, _ in ranking]
            yield QueryResult(
                query_id=query,
                rank=ranked.rank,
                score=ranked.score,
                metrics=ranking_metrics(grades, list(judged.grades[query].values()), cutoffs),
                top=tuple(ranking[:TOP_KEPT]),
            )


@dataclass(frozen=True, slots=True)
class DocumentRows:
    """Some documents of each query, on the device that scores them, uploaded once.

    Attributes:
        pairs: number of the query and of the document, ordered by the first, shape (2, n).
        starts: where those of each query start, shape (queries + 1,).
    """

    pairs: torch.Tensor
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, rows: list[list[int]], device: torch.device) -> "DocumentRows":
        counts = np.array([len(some) for some in rows], dtype=np.int64)
        documents = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=counts.sum())
        pairs = torch.from_numpy(np.stack([np.repeat(np.arange(len(rows)), counts), documents]))
        return cls(pairs.to(device), np.concatenate([[0], counts.cumsum()]))

    def within(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column of each of them in the scores of so many queries."""
        queries, documents = self.pairs[:, self.starts[first] : self.starts[first + count]]
        return queries - first, documents


@dataclass(frozen=True, slots=True)
class Ranked:
    """Of one query: rank and score of its best relevant document; rows and scores of the first of its ranking."""

    rank: int
    score: float
    rows: list[int]
    scores: list[float]


def ranked_rows(scores: torch.Tensor, relevant: tuple[torch.Tensor, torch.Tensor], depth: int) -> Iterator[Ranked]:
    """Rank some queries' documents on the device, and bring everything back at once: each copy waits for the device.

    Args:
        scores: shape (queries, documents).
        relevant: rows and columns of the relevant ones.
        depth: how many rows of each ranking are wanted.
    """
    top = scores.topk(depth, dim=1)
    best = scores.new_full((len(scores),), -torch.inf).scatter_reduce_(0, relevant[0], scores[relevant], "amax")
    ranks = (scores > best[:, None]).sum(dim=1) + 1
    # In fp64, which holds row numbers and scores in fp32 as they are.
    figures = torch.cat([part.double() for part in (ranks[:, None], best[:, None], top.indices, top.values)], dim=1)
    on_host = figures.cpu().numpy()
    rows = on_host[:, 2 : 2 + depth].astype(np.int64).tolist()
    for own, numbers, values in zip(on_host[:, :2].tolist(), rows, on_host[:, 2 + depth :].tolist(), strict=True):
        yield Ranked(int(own[0]), own[1], numbers, values)
