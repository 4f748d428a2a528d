"""What a training reads and where it writes."""

from dataclasses import dataclass
from pathlib import Path

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.data.pairs import Pairs


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The training pairs as an Arrow file, and their groups and batches."""

    pairs: Pairs
    batch_plan: BatchPlan


@dataclass(frozen=True, slots=True)
class AttemptFolders:
    """Folders of one attempt on this machine: `scratch` is deleted with it, `staging` holds what will be published."""

    scratch: Path
    staging: Path
