"""Gradients of all chunks added up in fp32, also where the forward pass is in bf16 or fp16.

Autocast casts a weight once and gives the same copy to every chunk, so autograd adds up the chunks' gradients in the
precision of that copy, where small ones are lost beside the sum. Here weights are cast once a step as well, but every
chunk uses an alias of its own, whose gradient is added to a sum in the precision of the weight. It is what Micikevicius
et al. 2018 (arXiv 1710.03740, section 3.1) ask for the weights themselves. FSDP casts weights as it gathers them; there
each chunk's gradient is handed to it in fp32, and it reduces and frees the gradients of a layer chunk by chunk.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from mnrl_job.embedding.masks import embed
from mnrl_job.embedding.tokens import Features

CAST = "ToCopyBackward0"


@dataclass(frozen=True, slots=True)
class CastWeight:
    """A weight that autocast casts, and under which name a module has it."""

    module: nn.Module
    name: str
    weight: nn.Parameter


def cast_weights(model: SentenceTransformer, chunks: Iterable[Features]) -> list[CastWeight]:
    """Find out by the autograd graph which trained weights autocast casts wherever they are used.

    Called under the precision of training.

    Args:
        model: in evaluation mode, so that no random number is drawn.
        chunks: model input of each kind that training has.
    """
    cast, plain = set[int](), set[int]()
    for chunk in chunks:
        embeddings = embed(model, send_to_device(chunk, model.device))
        for user, weight in _uses(embeddings.grad_fn):
            (cast if user.name() == CAST else plain).add(id(weight))
    found = (
        (module, name, weight) for module in model.modules() for name, weight in module.named_parameters(recurse=False)
    )
    return [CastWeight(*one) for one in found if id(one[2]) in cast - plain]


@contextmanager
def fp32_accumulation(model: SentenceTransformer, weights: Iterable[CastWeight], dtype: torch.dtype) -> Iterator[None]:
    """While a step lasts, forward and backward, cast these weights once and sum their gradients in their own precision.

    Args:
        model: called once for each chunk.
        weights: of the model.
        dtype: what to cast them to.
    """
    weights = list(weights)
    sums: dict[int, _Sum] = {}
    copies: dict[int, torch.Tensor] = {}
    for one in weights:
        if id(one.weight) not in sums:
            sums[id(one.weight)] = _Sum(one.weight.dtype)
            copies[id(one.weight)] = _Cast.apply(one.weight, sums[id(one.weight)], dtype)  # type: ignore[no-untyped-call]

    def begin_chunk(*_: Any) -> None:
        for one in weights:
            # What stands in its dictionary goes before a module's parameters.
            vars(one.module)[one.name] = _Use.apply(copies[id(one.weight)], sums[id(one.weight)])  # type: ignore[no-untyped-call]

    handle = model.register_forward_pre_hook(begin_chunk)
    try:
        yield
    finally:
        handle.remove()
        for one in weights:
            vars(one.module).pop(one.name, None)


@contextmanager
def sharded_fp32_accumulation(model: nn.Module) -> Iterator[None]:
    """While a step lasts, forward and backward, sum the gradients of weights that FSDP2 has gathered in fp32.

    Args:
        model: prepared by accelerate, its trained weights gathered in bf16 or fp16 for each chunk.
    """
    units = [one for one in model.modules() if isinstance(one, FSDPModule)]

    def begin_chunk(unit: nn.Module, _: Any) -> None:
        for module in unit.modules():
            for name, weight in module.named_parameters(recurse=False):
                # Those of units inside are still held in shares.
                if weight.requires_grad and not isinstance(weight, DTensor):
                    vars(module)[name] = _Use.apply(weight, _Gradient(weight))  # type: ignore[no-untyped-call]

    handles = [unit.register_forward_pre_hook(begin_chunk) for unit in units]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in model.modules():
            for name, _ in module.named_parameters(recurse=False):
                vars(module).pop(name, None)


@dataclass(slots=True)
class _Sum:
    """The gradients of a weight so far, in its precision."""

    dtype: torch.dtype
    total: torch.Tensor | None = None

    def add(self, gradient: torch.Tensor) -> None:
        if self.total is None:
            self.total = gradient.to(self.dtype)
        else:
            self.total.add_(gradient)

    def take(self) -> torch.Tensor | None:
        """Hand the sum over, so that autograd need not copy it."""
        total, self.total = self.total, None
        return total


@dataclass(frozen=True, slots=True)
class _Gradient:
    """The gradient of a gathered weight, which FSDP takes away as soon as it has passed through the layer."""

    weight: torch.Tensor

    def add(self, gradient: torch.Tensor) -> None:
        self.weight.grad_dtype = torch.float32
        if self.weight.grad is None:
            self.weight.grad = gradient.to(torch.float32)
        else:
            self.weight.grad.add_(gradient)


class _Cast(torch.autograd.Function):
    """The copy of a weight. Once all chunks have added their gradients to the sum, this is the weight's gradient."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, total: _Sum, dtype: torch.dtype) -> torch.Tensor:
        ctx.set_materialize_grads(False)
        ctx.total = total
        return weight.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: None) -> tuple[torch.Tensor | None, None, None]:
        return ctx.total.take(), None, None


class _Use(torch.autograd.Function):
    """The copy as one chunk uses it. Its gradient goes into the sum, and no further."""

    @staticmethod
    def forward(ctx: Any, copy: torch.Tensor, total: _Sum | _Gradient) -> torch.Tensor:
        ctx.total = total
        return copy.view_as(copy)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None]:
        ctx.total.add(gradient)
        return None, None


def _uses(result: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """The nodes of an autograd graph that use a leaf, each with the leaf."""
    seen: set[Any] = set()
    ahead: list[Any] = [result]
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            if following is None:
                continue
            if hasattr(following, "variable"):
                yield node, following.variable
            else:
                ahead.append(following)
