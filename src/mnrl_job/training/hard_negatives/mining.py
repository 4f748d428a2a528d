"""Hard negatives: for each pair, documents of other pairs that the model ranks highest for the query.

Documents scored nearly as high as the positive are excluded, since they are likely false negatives: TopK-PercPos of
NV-Retriever (Moreira et al. 2024, arXiv 2407.15831, section 3.2). Texts of one group count as one text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

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
from mnrl_job.data.tables import SelectedTexts, read_table
from mnrl_job.embedding.device_memory import block_bytes
from mnrl_job.embedding.embedding_files import Embeddings, encode_to_file, load
from mnrl_job.embedding.flat_buffer import to_host
from mnrl_job.embedding.precision import Precision
from mnrl_job.embedding.prompts import Kind
from mnrl_job.embedding.rank_slice import own_slice, tiles_of
from mnrl_job.embedding.top_documents import TopDocuments
from mnrl_job.system.local_rank import is_local_main_process
from mnrl_job.training.hard_negatives.document_index import DocumentIndex, build_index

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

    def depth(self, documents: int) -> int:
        """How many of the highest-ranked documents are considered; more than there are if fewer than wanted are."""
        return min(self.ranks.last, max(documents, self.ranks.first - 1 + self.num_negatives))


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

    Every machine has in `folder` the tokens, for the next round, and until the end the embeddings.

    Raises:
        Preempted: this process was asked to stop.
    """
    table, scratch = read_table(pairs.path), folder / "embeddings"
    kinds: dict[Kind, NDArray[np.int64]] = {"query": candidates.queries, "document": candidates.documents}
    embeddings = []
    for name, (kind, rows) in zip(pairs.columns, kinds.items(), strict=False):
        paths = folder / f"{kind}-tokens.arrow", scratch / f"{kind}.npy"
        embeddings.append(encode_to_file(model, SelectedTexts(table[name], rows), kind, precision, *paths))
    queries, documents = embeddings
    index = build_index(documents, scratch)
    # Shifted by one, 0 for none, so that the results of all ranks can be summed.
    mined = torch.zeros((pairs.rows, config.num_negatives), dtype=torch.int32)
    sums = torch.zeros(3, dtype=torch.float64)
    for rows, positions, scores, positive_scores in search(queries, index, candidates, config):
        valid, row_of = scores.isfinite(), torch.from_numpy(candidates.documents[index.order[positions.numpy()]])
        mined[torch.from_numpy(rows)] = torch.where(valid, row_of + 1, 0).int()
        sums += torch.stack([torch.where(valid, scores, 0).sum(), positive_scores.sum(), valid.sum()])
    device = PartialState().device
    mined, sums = (reduce(tensor.to(device), "sum").cpu() for tensor in (mined, sums))
    if is_local_main_process():
        rmtree(scratch)
    similarity, positive_similarity, count = sums.tolist()
    return MiningResult(
        (mined - 1).numpy(), similarity / max(1, count), positive_similarity / max(1, len(candidates.rows))
    )


def search(
    queries: Embeddings, index: DocumentIndex, candidates: Candidates, config: MiningConfig
) -> Iterator[tuple[NDArray[np.int64], torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Rank the documents for this rank's slice of the queries, block by block.

    Yields:
        On the host: rows; the positions in the index of the documents selected for each and their similarities, -inf if
        there are too few, shape (rows, negatives); the similarities of the positives, shape (rows,).
    """
    device, depth = PartialState().device, config.depth(len(index.order))
    size = max(1, block_bytes(device) // index.bytes_per_query(depth))
    never = np.sort(index.position[candidates.non_minable])
    never_on_device = torch.from_numpy(never).to(device)
    for block in tiles_of(own_slice(len(queries)), size):
        vectors, top = load(queries, block), TopDocuments(block.stop - block.start, depth, device)
        relevant = candidates.relevant[:, slice(*np.searchsorted(candidates.relevant[0], (block.start, block.stop)))]
        for members, documents, scores in index.score_tiles(vectors, relevant - np.array([[block.start], [0]])):
            of_tile = slice(*np.searchsorted(never, (documents.start, documents.stop)))
            scores[:, never_on_device[of_tile] - documents.start] = -torch.inf
            top.update(members, documents.start, scores)
        of_block = slice(*np.searchsorted(candidates.query_of, (block.start, block.stop)).tolist())
        for rows in tiles_of(of_block, size):
            query = torch.from_numpy(candidates.query_of[rows] - block.start).to(device)
            positives = load(index.embeddings, index.position[candidates.document_of[rows]])
            positive_scores = (vectors[query] * positives).sum(dim=1)
            results = (*select(top, query, positive_scores, config), positive_scores)
            positions, scores, positive_scores = to_host(list(results))
            yield candidates.rows[rows], positions, scores, positive_scores


def select(
    top: TopDocuments, query: torch.Tensor, positive_scores: torch.Tensor, config: MiningConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest-ranked documents within the range of ranks that score sufficiently below the positive.

    Args:
        top: the highest-scoring documents of some queries, -inf for those that must not be negatives.
        query: for each row the index of its query among these.
        positive_scores: the similarity of each row's positive.
        config: how many negatives, and from which documents.

    Returns:
        Positions of documents, and their similarities, -inf if there are too few; shape (rows, negatives).
    """
    scores, positions = (part[:, config.ranks.first - 1 :][query] for part in (top.scores, top.positions))
    limit = positive_scores - positive_scores.abs() * config.relative_margin
    best = scores.masked_fill(scores > limit[:, None], -torch.inf).topk(config.num_negatives, dim=1)
    return positions.gather(1, best.indices), best.values
