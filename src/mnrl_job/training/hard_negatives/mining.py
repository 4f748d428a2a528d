"""Hard negatives: for each pair the documents of other pairs that the model finds nearest to the query, yet wrong.

What is nearly as near as the positive is left alone, since it is likely right as well: TopK-PercPos of NV-Retriever
(Moreira et al. 2024, arXiv 2407.15831, section 3.2). Texts of one group are one text here.
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

from mnrl_job.config.settings import Settings
from mnrl_job.data.integer_sets import distinct_dense, distinct_pairs
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import read_table, take
from mnrl_job.embedding.device_memory import scores_at_once
from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.precision import choose_precision
from mnrl_job.embedding.rank_slice import rank_slice
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.preemption import raise_if_stop_requested

NO_ROW = -1


@dataclass(frozen=True, slots=True)
class Texts:
    """The queries and documents of some rows, each once, and who must not be a negative of whom.

    Attributes:
        rows: ordered by query, shape (rows,).
        query_of: of each of them the number of its query.
        document_of: of each of them the number of its positive.
        queries: for each query a row that has it as anchor.
        documents: for each document a row that has it as positive.
        own: numbers of a query and of a document that goes with it in any row, ordered by the first, shape (2, n).
        barred: numbers of documents that are nobody's negative.
    """

    rows: NDArray[np.int64]
    query_of: NDArray[np.int64]
    document_of: NDArray[np.int64]
    queries: NDArray[np.int64]
    documents: NDArray[np.int64]
    own: NDArray[np.int64]
    barred: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MiningResult:
    """What was found.

    Attributes:
        rows: for each row of the pairs the rows whose positives are its negatives, then `NO_ROW`;
            shape (rows of the pairs, negatives).
        similarity: of queries and their negatives, on average.
        positive_similarity: of queries and their positives, on average.
    """

    rows: NDArray[np.int32]
    similarity: float
    positive_similarity: float


def distinct(groups: NDArray[np.int64], given: Ragged, barred: NDArray[np.bool_], rows: NDArray[np.int64]) -> Texts:
    """Sort out the texts of some rows.

    Args:
        groups: of the anchors and positives of the pairs, shape (rows of the pairs, 2).
        given: of the negatives that each row of the pairs was given.
        barred: rows whose positive is nobody's negative, shape (rows of the pairs,).
        rows: the rows that negatives are wanted for, and the only ones whose positives may be negatives.
    """
    rows = rows[np.argsort(groups[rows, 0], kind="stable")]
    anchors, queries, query_of = np.unique(groups[rows, 0], return_index=True, return_inverse=True)
    positives, documents, document_of = np.unique(groups[rows, 1], return_index=True, return_inverse=True)
    # What goes with a query is told by all its rows, also by those that negatives are not wanted for.
    asking = np.concatenate([groups[:, 0], groups[:, 0], groups[given.rows, 0]])
    told = np.concatenate([groups[:, 0], groups[:, 1], given.values])
    at = np.minimum(np.searchsorted(positives, told), len(positives) - 1)
    known = (positives[at] == told) & np.isin(asking, anchors)
    own = distinct_pairs(np.column_stack([np.searchsorted(anchors, asking[known]), at[known]])).T
    return Texts(
        rows, query_of, document_of, rows[queries], rows[documents], own, distinct_dense(document_of[barred[rows]])
    )


def mine(model: SentenceTransformer, pairs: Pairs, texts: Texts, settings: Settings, folder: Path) -> MiningResult:
    """Find negatives by the weights that the model has now; ranks share the work, and every rank must ask.

    Args:
        model: on this rank's device.
        pairs: the training pairs.
        texts: of them.
        settings: how many negatives, from which places of the ranking, and how much less similar than the positive.
        folder: for tokens, kept for the next time.

    Returns:
        The same on every rank.

    Raises:
        Preempted: this process was asked to stop.
    """
    state, table = PartialState(), read_table(pairs.path)
    precision = choose_precision(settings.precision, state.device)
    anchors, positives = (table[name] for name in pairs.columns[:2])
    queries = encode(model, take(anchors, texts.queries), "query", precision, folder / "queries.arrow")
    documents = encode(model, take(positives, texts.documents), "document", precision, folder / "documents.arrow")
    row_of = torch.from_numpy(texts.documents).to(state.device)
    # 0 is nothing, so that the shares of all ranks can be added up.
    found = torch.zeros((pairs.rows, settings.num_hard_negatives), dtype=torch.int32, device=state.device)
    sums = torch.zeros(3, device=state.device, dtype=torch.float64)
    for rows, numbers, scores, of_positives in search(queries, documents, texts, settings):
        kept = scores.isfinite()
        found[rows] = torch.where(kept, row_of[numbers] + 1, 0).int()
        sums += torch.stack([torch.where(kept, scores, 0).sum(), of_positives.sum(), kept.sum()])
    found, sums = reduce(found, "sum"), reduce(sums, "sum")
    similarity, positive_similarity, count = sums.tolist()
    return MiningResult(
        (found.cpu() - 1).numpy(), similarity / max(1, count), positive_similarity / max(1, len(texts.rows))
    )


def search(
    queries: torch.Tensor, documents: torch.Tensor, texts: Texts, settings: Settings
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Rank the documents for this rank's share of the queries, some at a time, without waiting for the device.

    Args:
        queries: embeddings, of unit length, shape (queries, dimension).
        documents: embeddings, of unit length, shape (documents, dimension).
        texts: whose they are.
        settings: the run's.

    Yields:
        Rows; the numbers of the documents chosen for each and their similarities, -inf where there are not enough,
        shape (rows, negatives); the similarities of the positives, shape (rows,).
    """
    uploaded = (texts.barred, texts.own, texts.rows, texts.query_of, texts.document_of)
    barred, own, rows, query_of, document_of = (torch.from_numpy(one).to(queries.device) for one in uploaded)
    state = PartialState()
    share = rank_slice(len(queries), state.process_index, state.num_processes)
    at_once = max(1, scores_at_once(queries.device) // len(documents))
    for start in range(share.start, share.stop, at_once):
        raise_if_stop_requested()
        heartbeat()
        stop = min(start + at_once, share.stop)
        scores = queries[start:stop] @ documents.T
        scores[:, barred] = -torch.inf
        asking, told = own[:, slice(*np.searchsorted(texts.own[0], (start, stop)))]
        scores[asking - start, told] = -torch.inf
        some = slice(*np.searchsorted(texts.query_of, (start, stop)))
        query, document = query_of[some], document_of[some]
        of_positives = (queries[query] * documents[document]).sum(dim=1)
        yield rows[some], *choose(scores, query - start, of_positives, settings), of_positives


def choose(
    scores: torch.Tensor, query: torch.Tensor, of_positives: torch.Tensor, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest documents within the places of the ranking, of those that are less similar than the positive.

    Args:
        scores: of all documents for some queries, -inf for those that must not be negatives.
        query: for each row the number of its query among these.
        of_positives: the similarity of each row's positive.
        settings: the run's.

    Returns:
        Numbers of documents, and their similarities, -inf where there are not enough; shape (rows, negatives).
    """
    count, places = settings.num_hard_negatives, settings.hard_negative_range
    missing = max(0, places.first - 1 + count - scores.shape[1])
    scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    ranked = scores.topk(min(places.last, scores.shape[1]), dim=1)
    values, numbers = (part[:, places.first - 1 :][query] for part in ranked)
    limit = of_positives - of_positives.abs() * settings.hard_negative_relative_margin
    best = values.masked_fill(values > limit[:, None], -torch.inf).topk(count, dim=1)
    # A document that was added to fill up has no number.
    return numbers.gather(1, best.indices).clamp(max=scores.shape[1] - missing - 1), best.values
