"""A number for each text: equal numbers are the same text, as far as a batch is concerned.

Documents (positives and negatives) are the same when they are equal after normalising or nearly equal; anchors only
when they are equal. Numbers are shared between the columns: a text that is an anchor here and a positive there is one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.integer_sets import are_among
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged, no_values
from mnrl_job.data.tables import NO_GROUP, list_offsets, read_table
from mnrl_job.deduplication.minhash import Column, compute_signatures
from mnrl_job.deduplication.near_duplicates import merge


@dataclass(frozen=True, slots=True)
class Groups:
    """The texts of the training pairs and of the relevant documents of the eval sets, as numbers.

    Attributes:
        texts: a number for each different anchor and positive, shape (rows, 2).
        groups: a number for each group of texts, of anchors and positives, shape (rows, 2).
        negatives: of the same groups, those of each row's negatives.
        contradictions: negatives that are a positive of the same anchor, shape (negatives,).
        positives: a number for each group of texts when the eval sets' documents are grouped, too, shape (rows,).
        relevant: the same for the relevant documents of the eval sets, in their order.
    """

    texts: NDArray[np.int64]
    groups: NDArray[np.int64]
    negatives: Ragged
    contradictions: NDArray[np.bool_]
    positives: NDArray[np.int64]
    relevant: NDArray[np.int64]


def find_groups(pairs: Pairs, relevant: Column | None, threshold: float | None, folder: Path) -> Groups:
    """Number the texts.

    Args:
        pairs: the training pairs.
        relevant: the relevant documents of the eval sets, if there are any.
        threshold: similarity from which documents are the same; None for equal ones only.
        folder: for files that are too large for memory.
    """
    documents = [Column(pairs.path, name) for name in pairs.columns[1:]]
    given = no_values(pairs.rows)
    if "negatives" in pairs.columns:
        given = Ragged(given.values, list_offsets(read_table(pairs.path)["negatives"]))
    anchors = compute_signatures([Column(pairs.path, pairs.columns[0])], None, folder / "anchors").ids
    signed = compute_signatures([*documents, *([relevant] if relevant else [])], threshold, folder / "documents")
    ours = signed.first(pairs.rows + int(given.offsets[-1]))
    merged = merge(ours, threshold)
    every = np.concatenate([representatives(anchors, ours.ids, merged), merged])
    numbers = np.unique(every, return_inverse=True)[1]
    texts = np.stack([anchors, ours.ids[: pairs.rows]], axis=1)
    negatives = ours.ids[pairs.rows :]
    # Found anew: an eval document that is like two of ours must not make these two one group.
    together = merge(signed, threshold) if relevant else merged
    return Groups(
        texts,
        numbers[: 2 * pairs.rows].reshape(2, -1).T,
        Ragged(numbers[2 * pairs.rows :], given.offsets),
        _contradictions(texts, Ragged(negatives, given.offsets)),
        together[: pairs.rows],
        together[len(ours.ids) :],
    )


def without_contradictions(found: Groups) -> Ragged:
    """The groups of negatives for training: one that contradicts a positive is nobody's negative."""
    return Ragged(np.where(found.contradictions, NO_GROUP, found.negatives.values), found.negatives.offsets)


def representatives(ids: NDArray[np.int64], known: NDArray[np.int64], standing: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ids that stand for texts which are among the known ones, too; other ids as they are."""
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)]
    return np.where(known[at] == ids, standing[at], ids)


def _contradictions(texts: NDArray[np.int64], negatives: Ragged) -> NDArray[np.bool_]:
    """Only equal texts contradict: a negative may well be worded nearly as the positive, on purpose."""
    numbers = np.unique(np.concatenate([texts.ravel(), negatives.values]), return_inverse=True)[1]
    span = int(numbers.max(initial=0)) + 1
    pairs, others = numbers[: texts.size].reshape(-1, 2), numbers[texts.size :]
    taught = pairs[:, 0] * span + pairs[:, 1]
    return are_among(pairs[negatives.rows, 0] * span + others, taught)
