"""The prepared training data of a run."""

from dataclasses import dataclass
from typing import Any

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was read, what the workers train, evaluate and select weights on, and the content of `audit.json`.

    With the settings that decided it, and relative paths, it is the content of a data set's `prepared.json`.
    """

    settings: dict[str, str]
    read: Pairs
    pairs: Pairs
    batch_plan: BatchPlan
    eval_sets: tuple[EvalSet, ...]
    audit: dict[str, Any]
    selection_split: EvalSet | None = None
