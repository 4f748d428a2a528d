"""Gradients of all chunks accumulated in fp32, also if the forward pass is in bf16 or fp16.

Autocast casts a weight once and reuses the copy for every chunk, so autograd accumulates the chunks' gradients in the
precision of that copy, where small ones are lost. Here weights are cast once per step as well, but every chunk uses an
alias of its own, whose gradient is added to a sum in the weight's precision, as Micikevicius et al. 2018 (arXiv
1710.03740, section 3.1) demand for the weights themselves. FSDP casts weights when it gathers them; there each chunk's
gradient is passed to it in fp32, and it reduces and frees the gradients of a layer chunk by chunk.
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

CAST_NODE = "ToCopyBackward0"


@dataclass(frozen=True, slots=True)
class CastWeight:
    """A weight that autocast casts, and its attribute name in a module."""

    module: nn.Module
    name: str
    weight: nn.Parameter


def cast_weights(model: SentenceTransformer, chunks: Iterable[Features]) -> list[CastWeight]:
    """Find, by the autograd graph, the trained weights that autocast casts wherever they are used.

    Called under the autocast of training, with the model in evaluation mode, so that no random number is drawn, and
    with model input of each kind that occurs in training.
    """
    cast, plain = set[int](), set[int]()
    for chunk in chunks:
        embeddings = embed(model, send_to_device(chunk, model.device))
        for user, weight in leaf_uses(embeddings.grad_fn):
            (cast if user.name() == CAST_NODE else plain).add(id(weight))
    parameters = (
        (module, name, weight) for module in model.modules() for name, weight in module.named_parameters(recurse=False)
    )
    return [CastWeight(module, name, weight) for module, name, weight in parameters if id(weight) in cast - plain]


@contextmanager
def fp32_accumulation(model: SentenceTransformer, weights: Iterable[CastWeight], dtype: torch.dtype) -> Iterator[None]:
    """During a step, forward and backward, cast these weights once and sum their gradients in the weights' precision.

    The model is called once for each chunk.
    """
    weights = list(weights)
    sums: dict[int, _GradientSum] = {}
    copies: dict[int, torch.Tensor] = {}
    for cast in weights:
        key = id(cast.weight)
        if key not in sums:
            sums[key] = _GradientSum(cast.weight.dtype)
            copies[key] = _CastOnce.apply(cast.weight, sums[key], dtype)  # type: ignore[no-untyped-call]

    def begin_chunk(*_: Any) -> None:
        for cast in weights:
            # An entry of the instance dictionary shadows the module's parameter.
            alias = _Alias.apply(copies[id(cast.weight)], sums[id(cast.weight)])  # type: ignore[no-untyped-call]
            vars(cast.module)[cast.name] = alias

    handle = model.register_forward_pre_hook(begin_chunk)
    try:
        yield
    finally:
        handle.remove()
        for cast in weights:
            vars(cast.module).pop(cast.name, None)


@contextmanager
def sharded_fp32_accumulation(model: nn.Module) -> Iterator[None]:
    """During a step, forward and backward, sum the gradients of weights gathered by FSDP2 in fp32.

    FSDP gathers the trained weights in bf16 or fp16 for each chunk.
    """
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]

    def begin_chunk(unit: nn.Module, _: Any) -> None:
        for module in unit.modules():
            for name, weight in module.named_parameters(recurse=False):
                # Weights of nested units are still sharded.
                if weight.requires_grad and not isinstance(weight, DTensor):
                    vars(module)[name] = _Alias.apply(weight, _GatheredGradient(weight))  # type: ignore[no-untyped-call]

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
class _GradientSum:
    """The sum of a weight's gradients, in the weight's precision."""

    dtype: torch.dtype
    total: torch.Tensor | None = None

    def add(self, gradient: torch.Tensor) -> None:
        if self.total is None:
            self.total = gradient.to(self.dtype)
        else:
            self.total.add_(gradient)

    def take(self) -> torch.Tensor | None:
        """Give up the reference, so that autograd need not copy the sum."""
        total, self.total = self.total, None
        return total


@dataclass(frozen=True, slots=True)
class _GatheredGradient:
    """The gradient of a gathered weight, which FSDP reduces after the backward pass of its layer."""

    weight: torch.Tensor

    def add(self, gradient: torch.Tensor) -> None:
        self.weight.grad_dtype = torch.float32
        if self.weight.grad is None:
            self.weight.grad = gradient.to(torch.float32)
        else:
            self.weight.grad.add_(gradient)


class _CastOnce(torch.autograd.Function):
    """The cast copy of a weight. Its backward runs after that of all chunks and returns the sum."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, total: _GradientSum, dtype: torch.dtype) -> torch.Tensor:
        ctx.set_materialize_grads(False)
        ctx.total = total
        return weight.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: None) -> tuple[torch.Tensor | None, None, None]:
        return ctx.total.take(), None, None


class _Alias(torch.autograd.Function):
    """The copy as one chunk uses it. Its gradient is added to the sum and not propagated."""

    @staticmethod
    def forward(ctx: Any, copy: torch.Tensor, total: _GradientSum | _GatheredGradient) -> torch.Tensor:
        ctx.total = total
        return copy.view_as(copy)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None]:
        ctx.total.add(gradient)
        return None, None


def leaf_uses(root: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """The nodes of an autograd graph that use a leaf, each with the leaf."""
    seen: set[Any] = set()
    stack: list[Any] = [root]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        for next_node, _ in node.next_functions:
            if next_node is None:
                continue
            if hasattr(next_node, "variable"):
                yield node, next_node.variable
            else:
                stack.append(next_node)
