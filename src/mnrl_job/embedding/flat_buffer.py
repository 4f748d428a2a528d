"""Nested tensors as one flat buffer, so that they are copied between host and device at once."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where a tensor is in the buffer."""

    start: int
    dtype: torch.dtype
    shape: torch.Size


@dataclass(frozen=True, slots=True)
class Layout:
    """The nested structure with specs instead of tensors. Not a container, so that libraries do not descend into it."""

    structure: Any


# `buffer`, a tensor of bytes, and its `layout`.
FlatBuffer = dict[str, Any]


def flatten(structure: Any) -> FlatBuffer:
    """Copy all tensors of nested dictionaries and lists, which are on one device, into one buffer."""
    # The widest types first, so that each tensor is aligned.
    tensors = sorted(filter(torch.is_tensor, tree_leaves(structure)), key=lambda tensor: -tensor.element_size())
    specs: dict[int, TensorSpec] = {}
    start = 0
    for tensor in tensors:
        specs[id(tensor)] = TensorSpec(start, tensor.dtype, tensor.shape)
        start += tensor.numel() * tensor.element_size()
    parts = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    layout = tree_map_only(torch.Tensor, lambda tensor: specs[id(tensor)], structure)
    return {"buffer": torch.cat(parts), "layout": Layout(layout)}


def unflatten(flat: FlatBuffer) -> Any:
    """The nested structure; its tensors are views of the buffer, on whichever device that is now."""
    buffer: torch.Tensor = flat["buffer"]

    def view(spec: TensorSpec) -> torch.Tensor:
        stop = spec.start + spec.shape.numel() * spec.dtype.itemsize
        return buffer[spec.start : stop].view(spec.dtype).view(spec.shape)

    return tree_map_only(TensorSpec, view, flat["layout"].structure)


def to_host(structure: Any) -> Any:
    """The structure with its tensors on the host; synchronizes once with the device."""
    flat = flatten(structure)
    return unflatten(flat | {"buffer": flat["buffer"].cpu()})


def to_device(structure: Any, device: torch.device) -> Any:
    """The structure with its tensors copied from the host to the device, without synchronizing."""
    if device.type == "cpu":
        return structure
    flat = flatten(structure)
    return unflatten(flat | {"buffer": flat["buffer"].pin_memory().to(device, non_blocking=True)})
