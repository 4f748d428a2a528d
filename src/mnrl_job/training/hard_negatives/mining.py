"""Hard negatives: for each pair, documents of other pairs that the model ranks highest for the query.

Documents scored nearly as high as the positive are excluded, since they are likely false negatives: TopK-PercPos of
NV-Retriever (Moreira et al. 2024, arXiv 2407.15831, section 3.2). Texts of one group count as one text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from mnrl_job.config.setting_types import RankRange
from mnrl_job.data.integer_sets import distinct_dense, distinct_pairs
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import read_table, take
from mnrl_job.embedding.device_memory import scores_per_tile
from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.precision import Precision
from mnrl_job.embedding.rank_slice import rank_slice
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.preemption import raise_if_stop_requested

NO_ROW = -1


@dataclass(frozen=True, slots=True)
class MiningConfig:
    """How hard negatives are mined: their number for each row, and the ranks of the documents considered.

    By the fraction `relative_margin` of the positive's similarity a negative must be less similar.
    """

    num_negatives: int
    ranks: RankRange
    relative_margin: float
    every_epoch: bool = False


@dataclass(frozen=True, slots=True)
class Candidates:
    """The distinct queries and documents of some rows, and which documents must not be negatives.

    Attributes:
        rows: sorted by query, shape (rows,).
        query_of: index of each row's query.
        document_of: index of each row's positive.
        queries: for each query a row that has it as anchor.
        documents: for each document a row that has it as positive.
        relevant: indices of queries, sorted, and of documents relevant to them in any row, shape (2, n).
        non_minable: indices of documents that are never negatives.
    """

    rows: NDArray[np.int64]
    query_of: NDArray[np.int64]
    document_of: NDArray[np.int64]
    queries: NDArray[np.int64]
    documents: NDArray[np.int64]
    relevant: NDArray[np.int64]
    non_minable: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MiningResult:
    """The mean similarity of queries to their negatives, and to their positives.

    `rows` has for each row of the pairs the rows whose positives are its negatives, then `NO_ROW`; shape (rows of the
    pairs, negatives).
    """

    rows: NDArray[np.int32]
    similarity: float
    positive_similarity: float


def find_candidates(
    groups: NDArray[np.int64], given: Ragged, non_minable: NDArray[np.bool_], rows: NDArray[np.int64]
) -> Candidates:
    """Deduplicate the texts of those `rows` to mine negatives for, by group. Only their positives may be negatives.

    The other arguments are of all rows of the pairs: groups of anchor and positive, shape (rows, 2), groups of the
    negatives that come with each row, and whether its positive is never a negative.
    """
    rows = rows[np.argsort(groups[rows, 0], kind="stable")]
    anchors, queries, query_of = np.unique(groups[rows, 0], return_index=True, return_inverse=True)
    positives, documents, document_of = np.unique(groups[rows, 1], return_index=True, return_inverse=True)
    # A document is relevant by any row of the pairs, also by rows that are not mined for.
    query_groups = np.concatenate([groups[:, 0], groups[:, 0], groups[given.rows, 0]])
    document_groups = np.concatenate([groups[:, 0], groups[:, 1], given.values])
    indices = np.minimum(np.searchsorted(positives, document_groups), len(positives) - 1)
    known = (positives[indices] == document_groups) & np.isin(query_groups, anchors)
    relevant = distinct_pairs(np.column_stack([np.searchsorted(anchors, query_groups[known]), indices[known]])).T
    return Candidates(
        rows,
        query_of,
        document_of,
        rows[queries],
        rows[documents],
        relevant,
        distinct_dense(document_of[non_minable[rows]]),
    )


def mine(
    model: SentenceTransformer,
    pairs: Pairs,
    candidates: Candidates,
    config: MiningConfig,
    precision: Precision,
    folder: Path,
) -> MiningResult:
    """Mine negatives with the model's current weights, on all ranks. Collective, with the same result everywhere.

    `folder` is for tokens, reused in the next round.

    Raises:
        Preempted: this process was asked to stop.
    """
    state, table = PartialState(), read_table(pairs.path)
    anchors, positives = (table[name] for name in pairs.columns[:2])
    queries = encode(model, take(anchors, candidates.queries), "query", precision, folder / "queries.arrow")
    documents = encode(model, take(positives, candidates.documents), "document", precision, folder / "documents.arrow")
    row_of = torch.from_numpy(candidates.documents).to(state.device)
    # Shifted by one, 0 for none, so that the results of all ranks can be summed.
    mined = torch.zeros((pairs.rows, config.num_negatives), dtype=torch.int32, device=state.device)
    sums = torch.zeros(3, device=state.device, dtype=torch.float64)
    for rows, indices, scores, positive_scores in search(queries, documents, candidates, config):
        valid = scores.isfinite()
        mined[rows] = torch.where(valid, row_of[indices] + 1, 0).int()
        sums += torch.stack([torch.where(valid, scores, 0).sum(), positive_scores.sum(), valid.sum()])
    mined, sums = reduce(mined, "sum"), reduce(sums, "sum")
    similarity, positive_similarity, count = sums.tolist()
    return MiningResult(
        (mined.cpu() - 1).numpy(), similarity / max(1, count), positive_similarity / max(1, len(candidates.rows))
    )


def search(
    queries: torch.Tensor, documents: torch.Tensor, candidates: Candidates, config: MiningConfig
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Rank the documents for this rank's slice of the queries, tile by tile, without synchronizing with the device.

    The embeddings have unit length, shapes (queries, dimension) and (documents, dimension).

    Yields:
        Rows; the indices of the documents selected for each and their similarities, -inf if there are too few,
        shape (rows, negatives); the similarities of the positives, shape (rows,).
    """
    arrays = (candidates.non_minable, candidates.relevant, candidates.rows, candidates.query_of, candidates.document_of)
    non_minable, relevant, rows, query_of, document_of = (
        torch.from_numpy(array).to(queries.device) for array in arrays
    )
    state = PartialState()
    local = rank_slice(len(queries), state.process_index, state.num_processes)
    queries_per_tile = max(1, scores_per_tile(queries.device) // len(documents))
    for start in range(local.start, local.stop, queries_per_tile):
        raise_if_stop_requested()
        heartbeat()
        stop = min(start + queries_per_tile, local.stop)
        scores = queries[start:stop] @ documents.T
        scores[:, non_minable] = -torch.inf
        query, document = relevant[:, slice(*np.searchsorted(candidates.relevant[0], (start, stop)))]
        scores[query - start, document] = -torch.inf
        tile = slice(*np.searchsorted(candidates.query_of, (start, stop)))
        query, document = query_of[tile], document_of[tile]
        positive_scores = (queries[query] * documents[document]).sum(dim=1)
        yield rows[tile], *select(scores, query - start, positive_scores, config), positive_scores


def select(
    scores: torch.Tensor, query: torch.Tensor, positive_scores: torch.Tensor, config: MiningConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest-ranked documents within the range of ranks that score sufficiently below the positive.

    Args:
        scores: of all documents for some queries, -inf for those that must not be negatives.
        query: for each row the index of its query among these.
        positive_scores: the similarity of each row's positive.
        config: how many negatives, and from which documents.

    Returns:
        Indices of documents, and their similarities, -inf if there are too few; shape (rows, negatives).
    """
    count, ranks = config.num_negatives, config.ranks
    padding = max(0, ranks.first - 1 + count - scores.shape[1])
    scores = torch.nn.functional.pad(scores, (0, padding), value=-torch.inf)
    ranked = scores.topk(min(ranks.last, scores.shape[1]), dim=1)
    values, indices = (part[:, ranks.first - 1 :][query] for part in ranked)
    limit = positive_scores - positive_scores.abs() * config.relative_margin
    best = values.masked_fill(values > limit[:, None], -torch.inf).topk(count, dim=1)
    # Padding has no document index.
    return indices.gather(1, best.indices).clamp(max=scores.shape[1] - padding - 1), best.values
