"""The batch plan as files."""

from dataclasses import dataclass
from pathlib import Path

from mnrl_job.batching.token_shards import TokenShards


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The batches of a run, shared by all workers of a machine.

    Attributes:
        labels: Arrow file with the groups of each row.
        plan: `.npy` of row numbers, shape (steps, batch size).
        steps: of the run.
        epochs: the step, counted from 0, at which each epoch begins.
        non_minable: `.npy` of one flag per row: whether its positive is relevant to a query of an eval set, and so must
            not be mined as a negative.
        tokens: of all rows in the order of training; None if they are tokenized batch by batch.
    """

    labels: Path
    plan: Path
    steps: int
    epochs: tuple[int, ...] = (0,)
    non_minable: Path | None = None
    tokens: TokenShards | None = None
