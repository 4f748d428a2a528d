"""What repeats in the training pairs: rows, anchors, positives, texts that are nearly the same, and contradictions."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnrl_job.data.integer_sets import distinct, distinct_pairs
from mnrl_job.deduplication.groups import Groups
from mnrl_job.deduplication.text_quality import EXAMPLES, examples, shown

TOP_TEXTS = 10


def find_repeats(table: pa.Table, found: Groups) -> dict[str, Any]:
    """Describe what repeats.

    Args:
        table: the training pairs.
        found: their texts and groups as numbers.
    """
    groups = found.groups
    anchors, positives = (np.unique(side, return_inverse=True)[1] for side in found.texts.T)
    contradicting = distinct(found.negatives.rows[found.contradictions])
    return {
        "duplicates": {
            "repeated_rows": len(groups) - len(distinct_pairs(np.column_stack([anchors, positives]))),
            "distinct_anchors": int(anchors.max(initial=-1)) + 1,
            "distinct_positives": int(positives.max(initial=-1)) + 1,
            "anchors_with_several_positives": _with_several(groups[:, 0], groups[:, 1]),
            "positives_with_several_anchors": _with_several(groups[:, 1], groups[:, 0]),
        },
        "skew": _skew(table, groups[:, 1]),
        "near_duplicates": _near_duplicates(table, found),
        "contradictions": {
            "negatives": int(found.contradictions.sum()),
            "examples": examples(table, contradicting),
        },
    }


def _with_several(of: NDArray[np.int64], others: NDArray[np.int64]) -> int:
    """How many of the one kind stand with at least two of the other."""
    return int((np.bincount(distinct_pairs(np.column_stack([of, others]))[:, 0]) > 1).sum())


def _skew(table: pa.Table, positives: NDArray[np.int64]) -> dict[str, Any]:
    """How unevenly rows share the groups of positives, and the most frequent ones."""
    _, first, counts = np.unique(positives, return_index=True, return_counts=True)
    top = np.argsort(-counts, kind="stable")[:TOP_TEXTS]
    texts = shown(table["positive"], first[top])
    return {
        "most_rows_of_one": int(counts.max(initial=0)),
        "share_of_the_ten_most_frequent": round(float(counts[top].sum() / max(1, len(positives))), 4),
        "top": [{"rows": count, "text": text} for count, text in zip(counts[top].tolist(), texts, strict=True)],
    }


def _near_duplicates(table: pa.Table, found: Groups) -> dict[str, Any]:
    """Groups of several different positives, and the largest of them."""
    _, first = np.unique(found.texts[:, 1], return_index=True)
    groups, members = np.unique(found.groups[first, 1], return_counts=True)
    several = members > 1
    largest = groups[several][np.argsort(-members[several], kind="stable")[:EXAMPLES]]
    members_of = [first[found.groups[first, 1] == group][:EXAMPLES] for group in largest]
    return {
        "groups": int(several.sum()),
        "texts": int(members[several].sum()),
        "largest": int(members.max(initial=0)),
        "examples": [shown(table["positive"], rows) for rows in members_of],
    }
