"""The batch plan, dealt out to the ranks by the trainer."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sentence_transformers.base.sampler import DefaultBatchSampler

from mnrl_job.training.batches import Plan


class PlannedBatches(DefaultBatchSampler):
    """Hands the plan to the trainer as if the whole run were one epoch.

    Accelerate deals consecutive batches to consecutive ranks, so each global batch is yielded as one slice per rank:
    slice r of step s reaches rank r in step s. One long epoch also leaves no room for an epoch counter that a resumed
    or distributed run could lose.
    """

    def __init__(self, dataset: Any, plan: Plan, ranks: int) -> None:
        super().__init__(dataset, batch_size=plan.shape[1] // ranks, drop_last=True)
        self.plan = plan
        self.ranks = ranks

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.plan:
            for part in np.split(step, self.ranks):
                yield part.tolist()

    def __len__(self) -> int:
        return len(self.plan) * self.ranks
