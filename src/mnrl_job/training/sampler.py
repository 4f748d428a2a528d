"""The batch plan, split over the ranks by the trainer."""

from collections.abc import Callable, Iterator
from typing import Any

from sentence_transformers.base.sampler import DefaultBatchSampler

from mnrl_job.batching.planning import Plan
from mnrl_job.embedding.rank_slice import rank_slice


class PlannedBatches(DefaultBatchSampler):
    """Yields the plan to the trainer as if the whole run were one epoch.

    Accelerate assigns consecutive batches to consecutive ranks, so each global batch is yielded as one slice per rank:
    slice r of step s reaches rank r in step s. Slices may differ by a row. With a single epoch there is no epoch
    counter that a resumed or distributed run could lose.

    Args:
        dataset: the labels of all rows, or one entry for each step.
        plan: indices into it, shape (steps, batch size), or of the step itself for each rank, shape (steps, ranks).
        ranks: number of ranks that share a batch.
        begin_step: called with each step, counted from 0, before its batch is yielded, on every rank after the same
            step; also with those that a resumed run skips.
    """

    def __init__(
        self,
        dataset: Any,
        plan: Plan,
        ranks: int,
        begin_step: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(dataset, batch_size=plan.shape[1], drop_last=True)
        # With a batch size, accelerate drops a step whose last slice has another size.
        vars(self)["batch_size"] = None
        self.plan = plan
        self.ranks = ranks
        self.begin_step = begin_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(len(self.plan)):
            if self.begin_step:
                self.begin_step(step)
            for rank in range(self.ranks):
                yield self.plan[step, rank_slice(self.plan.shape[1], rank, self.ranks)].tolist()

    def __len__(self) -> int:
        return len(self.plan) * self.ranks
