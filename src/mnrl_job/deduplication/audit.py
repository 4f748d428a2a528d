"""What was read, kept, dropped and why, as `audit.json` tells it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import read_table
from mnrl_job.deduplication.duplicates import find_repeats
from mnrl_job.deduplication.groups import Groups
from mnrl_job.deduplication.text_quality import examples, find_oddities


@dataclass(frozen=True, slots=True)
class Leaks:
    """Rows that also stand in an eval set, by its name; `policy` is `MNRL_LEAKAGE_POLICY`."""

    policy: str
    rows: dict[str, NDArray[np.bool_]]

    @property
    def all(self) -> NDArray[np.int64]:
        """The numbers of these rows."""
        return np.flatnonzero(np.any(list(self.rows.values()), axis=0)) if self.rows else np.empty(0, dtype=np.int64)


def audit(read: Pairs, trained: Pairs, found: Groups, leaks: Leaks, eval_sets: Sequence[EvalSet]) -> dict[str, Any]:
    """Describe the data.

    Args:
        read: the pairs as they were read.
        trained: the pairs left to train on (fewer where some were removed or held out).
        found: the texts of `read` as numbers.
        leaks: which of `read` also stand in an eval set.
        eval_sets: what the model is judged on.
    """
    table = read_table(read.path)
    leaked = leaks.all
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
        **find_repeats(table, found),
        "leakage": {
            "policy": leaks.policy,
            "rows": len(leaked),
            "by_eval_set": {name: int(rows.sum()) for name, rows in leaks.rows.items()},
            "examples": examples(table, leaked),
        },
        "oddities": find_oddities(table),
        "eval": {
            one.name: {
                "uri": one.uri,
                "queries": one.queries,
                "documents": one.documents,
                "judgements": one.judgements,
                "queries_without_relevant_document": one.unjudged_queries,
                "own_documents": one.own_documents,
                "rejected": one.rejected,
                "rejected_rows": [asdict(row) for row in one.bad_rows],
                "sha256": one.sha256,
            }
            for one in eval_sets
        },
    }
