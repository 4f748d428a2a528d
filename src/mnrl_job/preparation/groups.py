"""A number for each text: equal numbers are the same text, as far as a batch is concerned.

Documents (positives and negatives) are the same when they are equal after normalising or nearly equal; anchors only
when they are equal. Numbers are shared between the columns: a text that is an anchor here and a positive there is one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnrl_job.preparation.near_duplicates import merge
from mnrl_job.preparation.signatures import Column, sign
from mnrl_job.preparation.texts import text_id
from mnrl_job.records import Pairs
from mnrl_job.runtime.tables import NOBODY

EMPTY = text_id("")


@dataclass(frozen=True, slots=True)
class Groups:
    """The texts of the training pairs and of the relevant documents of the eval sets, as numbers.

    Attributes:
        texts: a number for each different text, shape (rows, columns).
        groups: a number for each group of texts, shape (rows, columns); `NOBODY` where there is no negative.
        contradictions: negatives that are a positive of the same anchor, shape (rows, columns - 2).
        positives: a number for each group of texts when the eval sets' documents are grouped, too, shape (rows,).
        relevant: the same for the relevant documents of the eval sets, in their order.
    """

    texts: NDArray[np.int64]
    groups: NDArray[np.int64]
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
    anchors = sign([Column(pairs.path, pairs.columns[0])], None, folder / "anchors").ids
    signed = sign([*documents, *([relevant] if relevant else [])], threshold, folder / "documents")
    ours = signed.first(len(documents) * pairs.rows)
    merged = merge(ours, threshold)
    texts = np.column_stack([anchors, ours.ids.reshape(len(documents), -1).T])
    groups = np.column_stack([_standing(anchors, ours.ids, merged), merged.reshape(len(documents), -1).T])
    groups = np.unique(groups, return_inverse=True)[1].reshape(groups.shape)
    groups[texts == EMPTY] = NOBODY
    # Found anew: an eval document that is like two of ours must not make these two one group.
    together = merge(signed, threshold) if relevant else merged
    return Groups(texts, groups, _contradictions(texts), together[: pairs.rows], together[len(ours.ids) :])


def without_contradictions(found: Groups) -> NDArray[np.int64]:
    """The groups for training: a negative that contradicts a positive is nobody's negative."""
    groups = found.groups.copy()
    groups[:, 2:][found.contradictions] = NOBODY
    return groups


def _standing(ids: NDArray[np.int64], known: NDArray[np.int64], standing: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ids that stand for texts which are among the known ones, too; other ids as they are."""
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)]
    return np.where(known[at] == ids, standing[at], ids)


def _contradictions(texts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Only equal texts contradict: a negative may well be worded nearly as the positive, on purpose."""
    numbers = np.unique(texts, return_inverse=True)[1].reshape(texts.shape)
    span = int(numbers.max(initial=0)) + 1
    taught = numbers[:, 0] * span + numbers[:, 1]
    return np.asarray(np.isin(numbers[:, :1] * span + numbers[:, 2:], taught))
