"""The content of `audit.json`: what was read, kept and dropped, and why."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import read_table
from mnrl_job.deduplication.duplicates import describe_duplicates
from mnrl_job.deduplication.groups import TextGroups
from mnrl_job.deduplication.text_quality import describe_text_quality, example_pairs


@dataclass(frozen=True, slots=True)
class Leaks:
    """The pairs that also occur in an eval set, as a mask by its name; `policy` is `MNRL_LEAKAGE_POLICY`."""

    policy: str
    masks: dict[str, NDArray[np.bool_]]

    @property
    def rows(self) -> NDArray[np.int64]:
        return np.flatnonzero(np.any(list(self.masks.values()), axis=0)) if self.masks else np.empty(0, dtype=np.int64)


def audit(
    read: Pairs, trained: Pairs, groups: TextGroups, leaks: Leaks, eval_sets: Sequence[EvalSet]
) -> dict[str, Any]:
    """Describe the data: the pairs as they were `read`, with their groups and leaks, and those left to be `trained` on.

    `eval_sets` are those given or held out.
    """
    table = read_table(read.path)
    leaked = leaks.rows
    removed = len(leaked) if leaks.policy == "remove" else 0
    return {
        "rows_read": read.rows_read,
        "rows_filtered": read.filtered,
        "rows_usable": read.rows,
        "rows_removed_as_leaked": removed,
        "rows_held_out": read.rows - trained.rows - removed,
        "rows_to_train_on": trained.rows,
        "rejected": read.rejected,
        "rejected_rows": [asdict(row) for row in read.bad_rows],
        "sources": [asdict(source) for source in read.sources],
        **describe_duplicates(table, groups),
        "leakage": {
            "policy": leaks.policy,
            "rows": len(leaked),
            "by_eval_set": {name: int(mask.sum()) for name, mask in leaks.masks.items()},
            "examples": example_pairs(table, leaked),
        },
        "oddities": describe_text_quality(table),
        "eval": {eval_set.name: _describe_eval_set(eval_set) for eval_set in eval_sets},
    }


def _describe_eval_set(eval_set: EvalSet) -> dict[str, Any]:
    return {
        "uri": eval_set.uri,
        "queries": eval_set.queries,
        "documents": eval_set.documents,
        "judgements": eval_set.judgements,
        "queries_without_relevant_document": eval_set.unjudged_queries,
        "own_documents": eval_set.own_documents,
        "rejected": eval_set.rejected,
        "rejected_rows": [asdict(row) for row in eval_set.bad_rows],
        "sha256": eval_set.sha256,
    }
