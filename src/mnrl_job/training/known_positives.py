"""All positives of an anchor, also those that other rows of the data give it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.integer_sets import distinct, distinct_dense, distinct_pairs
from mnrl_job.data.ragged import Ragged, offsets_of


@dataclass(frozen=True, slots=True)
class KnownPositives:
    """The positives of the anchors that have several, by group.

    Attributes:
        anchors: in ascending order, shape (anchors,).
        positives: of each of these anchors.
    """

    anchors: NDArray[np.int64]
    positives: Ragged

    def pairs_of(self, anchors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pairs of anchor and positive for those of these anchors that have several positives, shape (pairs, 2)."""
        wanted = distinct(anchors)
        rows = np.minimum(np.searchsorted(self.anchors, wanted), len(self.anchors) - 1)
        rows = rows[self.anchors[rows] == wanted]
        positives = self.positives.select(rows)
        return np.stack([self.anchors[rows][positives.rows], positives.values], axis=1)


def find_known_positives(groups: NDArray[np.int64]) -> KnownPositives | None:
    """Collect the positives of each anchor; None if no anchor has several.

    Args:
        groups: of each row's anchor and positive, shape (rows, 2).
    """
    repeated = np.bincount(groups[:, 0])[groups[:, 0]] > 1
    pairs = distinct_pairs(groups[repeated])
    counts = np.bincount(pairs[:, 0])
    pairs = pairs[counts[pairs[:, 0]] > 1]
    if not len(pairs):
        return None
    anchors = distinct_dense(pairs[:, 0])
    return KnownPositives(anchors, Ragged(pairs[:, 1], offsets_of(counts[anchors])))
