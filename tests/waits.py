"""How often a program would wait for a GPU, counted where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# What needs numbers on the host, or as many places as it finds.
SCALARS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
# On a CPU these are no operation that could be counted.
TO_HOST = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy}


class Operations(TorchDispatchMode):
    """Counts operations that wait, also those inside of others."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])
        if func in SCALARS or by_mask:
            self.waits.append(str(func))
        return func(*args, **(kwargs or {}))


class Copies(TorchFunctionMode):
    """Counts what brings a tensor to the host."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in TO_HOST:
            self.waits.append(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_waits() -> Iterator[list[str]]:
    """The waits inside, by what waits; a list that grows."""
    waits: list[str] = []
    with Operations(waits), Copies(waits):
        yield waits
