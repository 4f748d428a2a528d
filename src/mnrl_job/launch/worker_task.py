"""What a worker is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """What a worker is to do. `settings` are the run's, as JSON values; `staging` holds what will be published.

    `inputs` are SHA-256 by input; all ranks, on all nodes, must have the same. `resume` is the folder of a checkpoint.
    `guide` is the folder or Hub id of the guide, empty where there is none.
    """

    settings: dict[str, Any]
    model: str
    scratch: Path
    staging: Path
    eval_sets: tuple[EvalSet, ...]
    inputs: dict[str, str]
    pairs: Pairs | None = None
    batching: BatchPlan | None = None
    resume: Path | None = None
    guide: str = ""
