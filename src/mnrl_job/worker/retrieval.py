"""Evaluates a model on an eval set: rankings and metrics, in the same way before and after training."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from shutil import rmtree
from timeit import repeat

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from sentence_transformers import SentenceTransformer

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.ragged import Ragged, offsets_of
from mnrl_job.data.tables import read_table, take
from mnrl_job.embedding.device_memory import scores_per_tile
from mnrl_job.embedding.embedding_files import Embeddings, encode_to_file, load
from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.flat_buffer import to_device
from mnrl_job.embedding.precision import Precision
from mnrl_job.embedding.rank_slice import own_slice, tiles_of
from mnrl_job.embedding.top_documents import TopDocuments
from mnrl_job.evaluation.metrics import mean_metrics, ranking_metrics
from mnrl_job.evaluation.qrels import Qrels, read_qrels
from mnrl_job.evaluation.results import Evaluation, QueryResult
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.json_text import dumps
from mnrl_job.system.local_rank import is_local_main_process

TOP_DOCUMENTS = 10
# A rank holds the embeddings of so many documents, and of its share of so many queries.
DOCUMENTS_PER_TILE, QUERIES_PER_BLOCK = 2**18, 2**14
SAMPLE_SIZE = 64


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How a model is evaluated, also truncated to each of `dimensions`; similarities are computed in fp32."""

    precision: Precision
    cutoffs: Sequence[int]
    dimensions: Sequence[int] = ()


def evaluate(model: SentenceTransformer, eval_set: EvalSet, options: EvaluationOptions, results: Path) -> Evaluation:
    """Rank the whole corpus for every query by cosine similarity.

    Each rank embeds a share of the texts and ranks for a share of the queries. The embeddings are in files beside
    `results`, on each machine, until the end. The main process writes a `QueryResult` per line to `results`. Token ids
    are cached in the folder of the eval set.

    Returns:
        The mean metrics, the same on every rank.
    """
    started = time.perf_counter()
    queries = read_table(eval_set.folder / "queries.arrow")
    corpus = read_table(eval_set.folder / "corpus.arrow")
    judged = read_qrels(eval_set, queries, corpus)
    folder = eval_set.folder
    cutoffs = options.cutoffs
    scratch = results.parent / "embeddings"
    embed = partial(encode_to_file, model, precision=options.precision)
    query_embeddings = embed(queries["text"], "query", tokens=folder / "query-tokens.arrow", path=scratch / "query.npy")
    document_embeddings = embed(
        corpus["text"], "document", tokens=folder / "document-tokens.arrow", path=scratch / "document.npy"
    )
    query_results = list(rank(query_embeddings, document_embeddings, judged, cutoffs))
    if PartialState().is_main_process:
        with results.open("w", encoding="utf-8") as handle:
            handle.writelines(dumps(asdict(result), ensure_ascii=False) + "\n" for result in query_results)
    by_dimension = {}
    for dimension in options.dimensions:
        rankings = rank(query_embeddings, document_embeddings, judged, cutoffs, dimension)
        by_dimension[str(dimension)] = mean_metrics([result.metrics for result in rankings])
    if is_local_main_process():
        rmtree(scratch)
    metrics = mean_metrics([result.metrics for result in query_results])
    return Evaluation(eval_set.name, metrics, results, time.perf_counter() - started, by_dimension)


def estimate_seconds(model: SentenceTransformer, eval_set: EvalSet, precision: Precision) -> float:
    """The estimated duration of `evaluate`, from embedding a sample of the documents."""
    texts = read_table(eval_set.folder / "corpus.arrow")["text"]
    sample = take(texts, np.arange(0, len(texts), max(1, len(texts) // SAMPLE_SIZE))[:SAMPLE_SIZE])
    embed = partial(encode, model, sample, "document", precision, eval_set.folder / "sample-tokens.arrow")
    seconds = min(repeat(embed, number=1, repeat=2))  # the first call tokenizes and warms up
    return seconds / len(sample) * (eval_set.documents + eval_set.queries)


def rank(
    queries: Embeddings, corpus: Embeddings, judged: Qrels, cutoffs: Sequence[int], dimension: int | None = None
) -> Iterator[QueryResult]:
    """Rank the corpus for each query, split over the ranks, by embeddings in the order of `judged`. Collective.

    A document with the id of the query is excluded from its ranking, as in BEIR. The metrics are at each of `cutoffs`.
    Embeddings are truncated to `dimension`. The results are the same on every rank.
    """
    row_of = {identifier: row for row, identifier in enumerate(judged.documents)}
    depth = min(max(*cutoffs, TOP_DOCUMENTS), len(row_of))
    relevant = ragged([[row_of[document] for document in judged.grades[query]] for query in judged.queries])
    excluded = ragged([[row_of[query]] if query in judged.own else [] for query in judged.queries])
    state = PartialState()
    for start in range(0, len(judged.queries), QUERIES_PER_BLOCK):
        block = judged.queries[start : start + QUERIES_PER_BLOCK]
        local = own_slice(len(block))
        own = slice(start + local.start, start + local.stop)
        packed = torch.zeros(len(block), 2 + 2 * depth, dtype=torch.float64, device=state.device)
        own_queries, scores_at_once = load(queries, own, dimension), scores_per_tile(state.device)
        scores = partial(score_tiles, own_queries, corpus, excluded.select(np.r_[own]), dimension, scores_at_once)
        packed[local] = rank_rows(scores, relevant.select(np.r_[own]), (local.stop - local.start, len(corpus)), depth)
        rankings = unpack(reduce(packed, "sum"))
        for query, (best_rank, best_score, rows, top_scores) in zip(block, rankings, strict=True):
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


def ragged(rows: list[list[int]]) -> Ragged:
    counts = np.array([len(documents) for documents in rows], dtype=np.int64)
    return Ragged(np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=counts.sum()), offsets_of(counts))


def in_tile(rows: Ragged, queries: slice, documents: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rows of documents, given by query, are in the scores of some queries and documents, on the device."""
    some = rows.select(np.r_[queries])
    inside = (some.values >= documents.start) & (some.values < documents.stop)
    places = torch.from_numpy(np.stack([some.rows[inside], some.values[inside] - documents.start]))
    row, column = to_device([places], PartialState().device)[0]
    return row, column


Tile = tuple[slice, slice, torch.Tensor]


def score_tiles(
    queries: torch.Tensor, corpus: Embeddings, excluded: Ragged, dimension: int | None, scores_at_once: int
) -> Iterator[Tile]:
    """The scores of queries and documents, tile by tile, all queries for one tile of documents after another.

    Those excluded are -inf. The same numbers are only sure to come out again in tiles of the same size.
    """
    for columns in tiles_of(slice(0, len(corpus)), DOCUMENTS_PER_TILE):
        documents = load(corpus, columns, dimension)
        tile_size = max(1, scores_at_once // len(documents))
        for rows in tiles_of(slice(0, len(queries)), tile_size):
            heartbeat()
            scores = queries[rows] @ documents.T
            scores[in_tile(excluded, rows, columns)] = -torch.inf
            yield rows, columns, scores


def rank_rows(
    tiles: Callable[[], Iterator[Tile]], relevant: Ragged, shape: tuple[int, int], depth: int
) -> torch.Tensor:
    """Rank documents on the device, without synchronizing with it.

    If there are several tiles of documents, all scores are computed twice: only then the best relevant document is
    known, and equal scores are equal again.

    Args:
        tiles: the scores, from the start.
        relevant: the documents relevant to each query.
        shape: numbers of queries and documents.
        depth: number of top documents.

    Returns:
        For each query rank and score of its best relevant document, rows and scores of the top documents, in fp64,
        which represents row numbers and fp32 scores exactly.
    """
    device = PartialState().device
    top = TopDocuments(shape[0], depth, device)
    best = torch.full((shape[0],), -torch.inf, device=device)
    ranks = torch.ones(shape[0], dtype=torch.int64, device=device)
    one_tile = shape[1] <= DOCUMENTS_PER_TILE
    for rows, columns, scores in tiles():
        row, column = in_tile(relevant, rows, columns)
        best[rows] = best[rows].scatter_reduce(0, row, scores[row, column], "amax")
        top.update(rows, columns.start, scores)
        if one_tile:
            ranks[rows] += (scores > best[rows, None]).sum(dim=1)
    for rows, _, scores in () if one_tile else tiles():
        ranks[rows] += (scores > best[rows, None]).sum(dim=1)
    return torch.cat([part.double() for part in (ranks[:, None], best[:, None], top.positions, top.scores)], dim=1)


def unpack(packed: torch.Tensor) -> Iterator[tuple[int, float, list[int], list[float]]]:
    """The results of `rank_rows`, copied to the host at once, since each copy synchronizes."""
    on_host = packed.cpu().numpy()
    depth = (on_host.shape[1] - 2) // 2
    rows = on_host[:, 2 : 2 + depth].astype(np.int64).tolist()
    for (rank, score), top_rows, top_scores in zip(
        on_host[:, :2].tolist(), rows, on_host[:, 2 + depth :].tolist(), strict=True
    ):
        yield int(rank), score, top_rows, top_scores
