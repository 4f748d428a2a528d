"""The task of a worker."""

from dataclasses import dataclass
from pathlib import Path

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.setting_types import ExportFormat
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs
from mnrl_job.evaluation.weight_selection import MIN_QUERIES

# The files of a prepared data set that a training on its tokens does not need.
ROW_FILES = ("train.arrow", "labels.arrow", "non_minable.npy")


@dataclass(frozen=True, slots=True)
class SelectionSets:
    """Eval sets on which weights are selected, and which are not reported: kept training pairs, and general search."""

    split: EvalSet
    guard: EvalSet | None = None


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """What a worker reads, and where it writes: temporary files to `scratch`, what will be published to `staging`.

    Secrets of the settings are masked in a worker. `model` and `guide` (which may be empty) are folders or Hub ids.
    `inputs`, SHA-256 by input, are the same on all ranks of all nodes. `resume` is the folder of a checkpoint.
    """

    settings: Settings
    model: str
    scratch: Path
    staging: Path
    eval_sets: tuple[EvalSet, ...]
    inputs: dict[str, str]
    pairs: Pairs | None = None
    batch_plan: BatchPlan | None = None
    selection: SelectionSets | None = None
    resume: Path | None = None
    guide: str = ""
    export_format: ExportFormat | None = None

    @property
    def selects_alpha(self) -> bool:
        """Whether the fraction of the trained weights is selected by scores: with `auto`, and enough queries."""
        is_auto = self.settings.weight_interpolation == "auto"
        return is_auto and self.selection is not None and self.selection.split.queries >= MIN_QUERIES
