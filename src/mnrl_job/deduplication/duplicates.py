"""Duplicates in the training pairs: repeated rows and texts, near-duplicates and contradicting negatives."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnrl_job.data.integer_sets import distinct, distinct_dense, distinct_pairs
from mnrl_job.deduplication.groups import TextGroups
from mnrl_job.deduplication.text_quality import EXAMPLES, example_pairs, shortened_texts

TOP_TEXTS = 10


def describe_duplicates(table: pa.Table, groups: TextGroups) -> dict[str, Any]:
    """The part of `audit.json` about duplicates in the training pairs."""
    anchor_groups, positive_groups = groups.group_ids.T
    anchors, positives = groups.text_ids.T
    contradicting_rows = distinct(groups.negatives.rows[groups.contradictions])
    return {
        "duplicates": {
            "repeated_rows": len(anchors) - len(distinct_pairs(groups.text_ids)),
            "distinct_anchors": len(distinct_dense(anchors)),
            "distinct_positives": len(distinct_dense(positives)),
            "anchors_with_several_positives": _count_with_several(anchor_groups, positive_groups),
            "positives_with_several_anchors": _count_with_several(positive_groups, anchor_groups),
        },
        "skew": _describe_skew(table, positive_groups),
        "near_duplicates": _describe_near_duplicates(table, groups),
        "contradictions": {
            "negatives": int(groups.contradictions.sum()),
            "examples": example_pairs(table, contradicting_rows),
        },
    }


def _count_with_several(groups: NDArray[np.int64], others: NDArray[np.int64]) -> int:
    """How many groups are paired with at least two other groups."""
    return int((np.bincount(distinct_pairs(np.column_stack([groups, others]))[:, 0]) > 1).sum())


def _describe_skew(table: pa.Table, positive_groups: NDArray[np.int64]) -> dict[str, Any]:
    """How unevenly rows are distributed over positives, and the most frequent positives."""
    _, first, counts = np.unique(positive_groups, return_index=True, return_counts=True)
    top = np.argsort(-counts, kind="stable")[:TOP_TEXTS]
    texts = shortened_texts(table["positive"], first[top])
    return {
        "most_rows_of_one": int(counts.max(initial=0)),
        "share_of_the_ten_most_frequent": round(float(counts[top].sum() / max(1, len(positive_groups))), 4),
        "top": [{"rows": count, "text": text} for count, text in zip(counts[top].tolist(), texts, strict=True)],
    }


def _describe_near_duplicates(table: pa.Table, groups: TextGroups) -> dict[str, Any]:
    """Groups of several different positives, and the largest of them."""
    _, first = np.unique(groups.text_ids[:, 1], return_index=True)
    group_of_text = groups.group_ids[first, 1]
    ids, sizes = np.unique(group_of_text, return_counts=True)
    several = sizes > 1
    largest = ids[several][np.argsort(-sizes[several], kind="stable")[:EXAMPLES]]
    examples = [first[group_of_text == group][:EXAMPLES] for group in largest]
    return {
        "groups": int(several.sum()),
        "texts": int(sizes[several].sum()),
        "largest": int(sizes.max(initial=0)),
        "examples": [shortened_texts(table["positive"], rows) for rows in examples],
    }
