"""Group equal and nearly equal texts.

Documents (positives and negatives) are in one group if they are equal after normalization or near-duplicates; anchors
only if they are equal. A text that is an anchor in one row and a positive in another has one group.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.integer_sets import Integers, dense_ranks, is_in
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged, no_values
from mnrl_job.data.tables import NO_GROUP, list_offsets, read_table
from mnrl_job.deduplication.minhash import Column, compute_signatures
from mnrl_job.deduplication.near_duplicates import find_representatives, number_texts


@dataclass(frozen=True, slots=True)
class TextGroups:
    """The texts of the training pairs and of the relevant documents of the eval sets, as numbers.

    Attributes:
        text_ids: of each row's anchor and positive, numbered from 0; equal texts have equal ids. Shape (rows, 2).
        group_ids: of each row's anchor and positive, shape (rows, 2).
        negatives: the group ids of each row's negatives.
        contradictions: which negatives are also a positive of the same anchor, shape (negatives,).
        joint_positives: group ids of the positives, grouped together with the eval sets' documents, shape (rows,).
        joint_relevant: the same of the relevant documents of the eval sets, in their order.
    """

    text_ids: Integers
    group_ids: Integers
    negatives: Ragged
    contradictions: NDArray[np.bool_]
    joint_positives: Integers
    joint_relevant: Integers


def find_groups(pairs: Pairs, relevant: Column | None, threshold: float | None, folder: Path) -> TextGroups:
    """Group the texts of the training pairs and the relevant documents of the eval sets, if there are any.

    `threshold` is the Jaccard similarity of near-duplicates, None to group only equal documents. What is too large for
    memory is in `folder`.
    """
    columns = [Column(pairs.path, name) for name in pairs.columns]
    negative_offsets = no_values(pairs.rows).offsets
    if "negatives" in pairs.columns:
        negative_offsets = list_offsets(read_table(pairs.path)["negatives"])
    anchor_ids = compute_signatures(columns[:1], None, folder / "anchors").ids
    joint = compute_signatures([*columns[1:], *([relevant] if relevant else [])], threshold, folder / "documents")
    anchors, joint_texts = np.split(number_texts(np.concatenate([anchor_ids, joint.ids])), [pairs.rows])
    documents = joint_texts[: pairs.rows + int(negative_offsets[-1])]
    representatives = find_representatives(documents, joint, threshold)
    anchor_representatives = np.arange(int(max(anchors.max(), documents.max())) + 1, dtype=anchors.dtype)
    anchor_representatives[documents] = representatives
    group_ids = dense_ranks(np.concatenate([anchor_representatives[anchors], representatives]))
    text_ids = np.stack([anchors, documents[: pairs.rows]], axis=1)
    # Grouped separately: an eval document similar to two training texts must not put these two into one group.
    joint_representatives = find_representatives(joint_texts, joint, threshold) if relevant else representatives
    return TextGroups(
        text_ids=text_ids,
        group_ids=group_ids[: 2 * pairs.rows].reshape(2, -1).T,
        negatives=Ragged(group_ids[2 * pairs.rows :], negative_offsets),
        contradictions=_find_contradictions(text_ids, Ragged(documents[pairs.rows :], negative_offsets)),
        joint_positives=joint_representatives[: pairs.rows],
        joint_relevant=joint_representatives[len(documents) :],
    )


def without_contradictions(groups: TextGroups) -> Ragged:
    """The groups of negatives, with `NO_GROUP` for those that contradict a positive."""
    return Ragged(np.where(groups.contradictions, NO_GROUP, groups.negatives.values), groups.negatives.offsets)


def _find_contradictions(text_ids: Integers, negative_ids: Ragged) -> NDArray[np.bool_]:
    """Only equal texts contradict: a negative may be a near-duplicate of the positive on purpose."""
    span = int(max(text_ids.max(initial=0), negative_ids.values.max(initial=0))) + 1
    positive_keys = text_ids[:, 0].astype(np.int64) * span + text_ids[:, 1]
    return is_in(text_ids[negative_ids.rows, 0].astype(np.int64) * span + negative_ids.values, positive_keys)
