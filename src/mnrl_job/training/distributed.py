"""Collectives between ranks: embeddings with their gradients, counts, and votes on the end of a step."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

# A gloo group between the hosts of ranks with GPUs; None, which is the default group, on CPUs.
_host_group: dist.ProcessGroup | None = None


def init_host_group(timeout: timedelta) -> None:
    """Create the group over which ranks with GPUs exchange host tensors. Collective, called once at the start.

    The timeout is long: in a step a rank may wait for one that reads or compiles.
    """
    global _host_group
    if not is_single_process() and dist.get_backend() != "gloo":
        _host_group = dist.new_group(backend="gloo", timeout=timeout)


def all_gather_with_grad(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks, the same number on each, in rank order, by one collective in either direction.

    A rank's gradient is the sum of the gradients on all ranks, as in the library's `all_gather_with_grad`. A single
    process gets its tensor back. Shapes (rows, ...) and (ranks * rows, ...).
    """
    if is_single_process():
        return tensor
    gathered: torch.Tensor = _AllGather.apply(tensor)  # type: ignore[no-untyped-call]
    return gathered


def all_gather_uneven(tensor: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
    """As `all_gather_with_grad`, if ranks have different numbers of rows (`counts`)."""
    most = max(counts)
    padding = tensor.new_zeros(most - len(tensor), *tensor.shape[1:])
    gathered = all_gather_with_grad(torch.cat([tensor, padding]) if len(padding) else tensor)
    return [gathered[rank * most : rank * most + count] for rank, count in enumerate(counts)]


def any_rank(flag: bool) -> bool:
    """Whether the flag is true on any rank. Collective."""
    return bool(max_over_ranks(int(flag)))


def max_over_ranks(number: int) -> int:
    """The maximum over all ranks, without synchronizing with the GPUs. Collective."""
    if is_single_process():
        return number
    maximum = torch.tensor(number)
    dist.all_reduce(maximum, dist.ReduceOp.MAX, group=_host_group)
    return int(maximum)


def all_gather_ints(numbers: Sequence[int]) -> list[list[int]]:
    """The numbers of each rank, the same count on every rank, without synchronizing with the GPUs. Collective."""
    if is_single_process():
        return [list(numbers)]
    gathered = torch.empty(dist.get_world_size(), len(numbers), dtype=torch.int64)
    dist.all_gather_single(gathered, torch.tensor([numbers]), group=_host_group)
    by_rank: list[list[int]] = gathered.tolist()
    return by_rank


class StepVotes:
    """What happens at the end of a step: whatever any rank votes for.

    Votes travel with the one message of the step's forward pass. A vote cast later counts in the next step, at the
    latest. A single process need not wait.
    """

    def __init__(self) -> None:
        self._voters: dict[str, Callable[[], bool]] = {}
        self._results: dict[str, bool] = {}

    def add(self, name: str, vote: Callable[[], bool]) -> None:
        """Add a question that is voted on in each step; every rank adds the same ones in the same order."""
        self._voters[name] = vote

    def local(self) -> list[int]:
        return [int(vote()) for vote in self._voters.values()]

    def update(self, by_rank: Sequence[Sequence[int]]) -> None:
        self._results = {name: any(votes) for name, votes in zip(self._voters, zip(*by_rank, strict=True), strict=True)}

    def passed(self, name: str) -> bool:
        return self._voters[name]() if is_single_process() else self._results[name]


def is_single_process() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


class _AllGather(torch.autograd.Function):
    """NCCL requires contiguous tensors."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        ctx.ranks = dist.get_world_size()
        gathered = tensor.new_empty(ctx.ranks * len(tensor), *tensor.shape[1:])
        dist.all_gather_single(gathered, tensor.contiguous())
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> torch.Tensor:
        gradient = upstream.new_empty(len(upstream) // ctx.ranks, *upstream.shape[1:])
        dist.reduce_scatter_single(gradient, upstream.contiguous())
        return gradient
