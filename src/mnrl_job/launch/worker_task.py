"""The task of a worker."""

from dataclasses import dataclass
from pathlib import Path

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.setting_types import ExportFormat
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """What a worker reads, and where it writes.

    Attributes:
        settings: of the run, with its `run_id`. Secrets are masked in a worker.
        model: folder or Hub id of the base model.
        scratch: folder of temporary files.
        staging: folder of what will be published.
        eval_sets: to score the model on.
        inputs: SHA-256 by input; the same on all ranks of all nodes.
        pairs: the training data.
        batch_plan: of the training data.
        resume: folder of the checkpoint to resume from.
        guide: folder or Hub id of the guide model; empty if there is none.
    """

    settings: Settings
    model: str
    scratch: Path
    staging: Path
    eval_sets: tuple[EvalSet, ...]
    inputs: dict[str, str]
    pairs: Pairs | None = None
    batch_plan: BatchPlan | None = None
    resume: Path | None = None
    guide: str = ""
    export_format: ExportFormat | None = None
