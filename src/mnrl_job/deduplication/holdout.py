"""An eval set made from the training pairs, where the user has none: whole groups are held out."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import NO_GROUP, read_table, take
from mnrl_job.errors import DataError

CORPUS_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Queries, corpus and grades taken out of the training pairs; `rows` marks which, shape (rows,)."""

    rows: NDArray[np.bool_]
    queries: dict[str, str]
    corpus: dict[str, str]
    grades: dict[tuple[str, str], int]


def components(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the sets of rows that hang together by an anchor's or a positive's group. Shape (rows,)."""
    size = int(groups.max(initial=0)) + 1
    graph = coo_array((np.ones(len(groups), dtype=bool), (groups[:, 0], groups[:, 1])), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][groups[:, 0]], dtype=np.int64)


def choose_rows(groups: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Mark the rows to hold out: whole components, in random order, while they fit into `share` of the rows.

    Raises:
        DataError: none fits, so nothing could be held out.
    """
    parts, sizes = np.unique(components(groups), return_inverse=True, return_counts=True)[1:]
    budget = int(len(groups) * share)
    chosen = np.zeros(len(sizes), dtype=bool)
    for part in np.random.default_rng((seed, 1)).permutation(len(sizes)):
        if sizes[part] <= budget:
            chosen[part] = True
            budget -= int(sizes[part])
    if not chosen.any():
        raise DataError(
            f"MNRL_HOLDOUT_RATIO={share:g}: no group of the {len(groups)} rows is small enough to hold out; "
            "give MNRL_EVAL_DATA, more pairs, or MNRL_HOLDOUT_RATIO=0 to train without evaluation"
        )
    return np.asarray(chosen[parts])


def hold_out(pairs: Pairs, texts: NDArray[np.int64], groups: NDArray[np.int64], share: float, seed: int) -> HeldOut:
    """Make an eval set of some of the pairs.

    The corpus holds the held-out positives and up to `CORPUS_ROWS` of the others, so that a query has something to be
    wrong about; of near-duplicates it holds one. A query is relevant to all positives it stands with.

    Args:
        pairs: the training pairs.
        texts: a number for each different text, shape (rows, 2).
        groups: a number for each group of texts, shape (rows, 2).
        share: of the rows, how many to hold out at most.
        seed: the run's seed.

    Raises:
        DataError: nothing can be held out.
    """
    held = choose_rows(groups, share, seed)
    table = read_table(pairs.path).select(["anchor", "positive"])
    sample = np.random.default_rng((seed, 2)).permutation(np.flatnonzero(~held))[:CORPUS_ROWS]
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    grades: dict[tuple[str, str], int] = {}
    asked = np.flatnonzero(held)
    for row, query_id, document_id in zip(
        table.filter(pa.array(held)).to_pylist(), texts[asked, 0].tolist(), groups[asked, 1].tolist(), strict=True
    ):
        query, document = f"q{query_id & (2**64 - 1):016x}", f"d{document_id}"
        queries.setdefault(query, row["anchor"])
        corpus.setdefault(document, row["positive"])
        grades[query, document] = 1
    others = take(table["positive"], sample).to_pylist()
    for document_id, positive in zip(groups[sample, 1].tolist(), others, strict=True):
        corpus.setdefault(f"d{document_id}", positive)
    return HeldOut(held, queries, corpus, grades)


def spare_held_out(groups: NDArray[np.int64], negatives: Ragged, held: NDArray[np.bool_]) -> tuple[Ragged, int]:
    """Make negatives of other rows nobody's where their group is that of a held-out text: training must not touch it.

    Args:
        groups: a number for each group of anchors and positives, shape (rows, 2).
        negatives: the same for the negatives of each row.
        held: the rows held out, shape (rows,).

    Returns:
        The groups of the negatives anew, and how many are spared.
    """
    spared = np.isin(negatives.values, groups[held]) & ~held[negatives.rows]
    return Ragged(np.where(spared, NO_GROUP, negatives.values), negatives.offsets), int(spared.sum())
