"""What was read, kept, dropped and why, as `audit.json` tells it."""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnrl_job.records import EvalSet, Pairs


def audit(read: Pairs, trained: Pairs, text_ids: NDArray[np.int64], eval_sets: tuple[EvalSet, ...]) -> dict[str, Any]:
    """Describe the data.

    Args:
        read: the pairs as they were read.
        trained: the pairs left to train on (fewer where some are held out).
        text_ids: ids of the texts of `trained`, shape (rows, columns).
        eval_sets: what the model is judged on.
    """
    pair_ids = text_ids[:, :2]
    return {
        "rows_read": read.rows_read,
        "rows_usable": read.rows,
        "rows_held_out": read.rows - trained.rows,
        "rows_to_train_on": trained.rows,
        "rejected": read.rejected,
        "rejected_rows": [asdict(row) for row in read.bad_rows],
        "sources": [asdict(source) for source in read.sources],
        "duplicates": {
            "repeated_pairs": len(pair_ids) - len(np.unique(pair_ids, axis=0)),
            "distinct_anchors": len(np.unique(pair_ids[:, 0])),
            "distinct_positives": len(np.unique(pair_ids[:, 1])),
            "most_rows_with_one_positive": int(np.unique(pair_ids[:, 1], return_counts=True)[1].max()),
        },
        "eval": {
            one.name: {
                "uri": one.uri,
                "queries": one.queries,
                "documents": one.documents,
                "judgements": one.judgements,
                "queries_without_relevant_document": one.unjudged_queries,
                "sha256": one.sha256,
            }
            for one in eval_sets
        },
    }
