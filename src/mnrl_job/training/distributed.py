"""What ranks tell one another in a step: rows, through which gradients flow back, and whether anything is wrong."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

# The ranks' processors; None, which is all ranks as they are, where they have no GPUs.
_hosts: dist.ProcessGroup | None = None


def open_host_group(timeout: timedelta) -> None:
    """Have the processors of ranks with GPUs meet; every rank must ask, when it starts.

    Args:
        timeout: of what they ask one another. In a step a rank may wait long for one that reads or compiles.
    """
    global _hosts
    if not is_single_process() and dist.get_backend() != "gloo":
        _hosts = dist.new_group(backend="gloo", timeout=timeout)


def all_gather_with_grad(own: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks, in the order of the ranks, with one message in either direction.

    A rank's gradient is the sum of what all ranks ask for, as in the library's `all_gather_with_grad`. A process alone
    gets back what it gave.

    Args:
        own: rows of this rank, as many as on every other, shape (rows, ...).

    Returns:
        Shape (ranks * rows, ...).
    """
    if is_single_process():
        return own
    everywhere: torch.Tensor = _Gathering.apply(own)  # type: ignore[no-untyped-call]
    return everywhere


def gather_uneven(own: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
    """The rows of each rank, where ranks differ in how many they have; with one message in either direction, too.

    Args:
        own: rows of this rank, shape (rows, ...).
        counts: how many each rank has.
    """
    most = max(counts)
    missing = own.new_zeros(most - len(own), *own.shape[1:])
    everywhere = all_gather_with_grad(torch.cat([own, missing]) if len(missing) else own)
    return [everywhere[rank * most : rank * most + count] for rank, count in enumerate(counts)]


def any_rank(flag: bool) -> bool:
    """Whether a flag is up on some rank."""
    return bool(max_over_ranks(int(flag)))


def max_over_ranks(number: int) -> int:
    """The largest number of any rank. Asked from host to host, so that no GPU has to finish its work for it."""
    if is_single_process():
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=_hosts)
    return int(largest)


def numbers_of_ranks(own: Sequence[int]) -> list[list[int]]:
    """Some numbers of each rank, as many of each; asked from host to host, too."""
    if is_single_process():
        return [list(own)]
    everywhere = torch.empty(dist.get_world_size(), len(own), dtype=torch.int64)
    dist.all_gather_single(everywhere, torch.tensor([own]), group=_hosts)
    numbers: list[list[int]] = everywhere.tolist()
    return numbers


class StepVotes:
    """What ranks want to happen at the end of a step: it does where any of them does.

    Ranks tell one another in the one message of the step's forward pass. What a rank wants later than that is told in
    the next step, which is the last one that it must wait for. A process alone need not wait.
    """

    def __init__(self) -> None:
        self._asked: dict[str, Callable[[], bool]] = {}
        self._wanted: dict[str, bool] = {}

    def add(self, name: str, ask: Callable[[], bool]) -> None:
        """Have a wish told in each step; every rank adds the same ones in the same order."""
        self._asked[name] = ask

    def own(self) -> list[int]:
        """What this rank wants now, for the message."""
        return [int(ask()) for ask in self._asked.values()]

    def hear(self, ranks: Sequence[Sequence[int]]) -> None:
        """Take in what each rank wants."""
        self._wanted = {name: any(wish) for name, wish in zip(self._asked, zip(*ranks, strict=True), strict=True)}

    def granted(self, name: str) -> bool:
        """Whether this is to happen at the end of the step."""
        return self._asked[name]() if is_single_process() else self._wanted[name]


def is_single_process() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


class _Gathering(torch.autograd.Function):
    """Messages are sent from contiguous memory, as NCCL demands."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor) -> torch.Tensor:
        ctx.ranks = dist.get_world_size()
        everywhere = own.new_empty(ctx.ranks * len(own), *own.shape[1:])
        dist.all_gather_single(everywhere, own.contiguous())
        return everywhere

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> torch.Tensor:
        own = upstream.new_empty(len(upstream) // ctx.ranks, *upstream.shape[1:])
        dist.reduce_scatter_single(own, upstream.contiguous())
        return own
