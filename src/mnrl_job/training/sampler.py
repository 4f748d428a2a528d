"""The batch plan, split over the ranks by the trainer."""

from collections.abc import Callable, Iterator, Sequence
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
        dataset: the labels of all rows.
        plan: row numbers, shape (steps, batch size).
        ranks: number of ranks that share a batch.
        epochs: the steps, counted from 0, at which epochs begin.
        begin_epoch: called with the number of an epoch before its first batch is yielded, on every rank after the same
            step; also for epochs that a resumed run skips.
    """

    def __init__(
        self,
        dataset: Any,
        plan: Plan,
        ranks: int,
        epochs: Sequence[int] = (),
        begin_epoch: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(dataset, batch_size=plan.shape[1], drop_last=True)
        # With a batch size, accelerate drops a step whose last slice has another size.
        vars(self)["batch_size"] = None
        self.plan = plan
        self.ranks = ranks
        self.epochs = {step: epoch for epoch, step in enumerate(epochs)}
        self.begin_epoch = begin_epoch

    def __iter__(self) -> Iterator[list[int]]:
        for step, rows in enumerate(self.plan):
            if self.begin_epoch and step in self.epochs:
                self.begin_epoch(self.epochs[step])
            for rank in range(self.ranks):
                yield rows[rank_slice(len(rows), rank, self.ranks)].tolist()

    def __len__(self) -> int:
        return len(self.plan) * self.ranks
