"""Nested tensors as one flat buffer, so that they are copied between host and device at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


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
    tensors = sorted(_tensors(structure), key=lambda tensor: -tensor.element_size())
    specs: dict[int, TensorSpec] = {}
    start = 0
    for tensor in tensors:
        specs[id(tensor)] = TensorSpec(start, tensor.dtype, tensor.shape)
        start += tensor.numel() * tensor.element_size()
    parts = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    return {"buffer": torch.cat(parts), "layout": Layout(_to_specs(structure, specs))}


def unflatten(flat: FlatBuffer) -> Any:
    """The nested structure; its tensors are views of the buffer, on whichever device that is now."""
    return _to_tensors(flat["layout"].structure, flat["buffer"])


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


def _tensors(structure: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(structure):
        yield structure
    elif isinstance(structure, dict | list):
        for item in structure.values() if isinstance(structure, dict) else structure:
            yield from _tensors(item)


def _to_specs(structure: Any, specs: dict[int, TensorSpec]) -> Any:
    if torch.is_tensor(structure):
        return specs[id(structure)]
    if isinstance(structure, dict):
        return {key: _to_specs(value, specs) for key, value in structure.items()}
    return [_to_specs(item, specs) for item in structure] if isinstance(structure, list) else structure


def _to_tensors(structure: Any, buffer: torch.Tensor) -> Any:
    if isinstance(structure, TensorSpec):
        stop = structure.start + structure.shape.numel() * structure.dtype.itemsize
        return buffer[structure.start : stop].view(structure.dtype).view(structure.shape)
    if isinstance(structure, dict):
        return {key: _to_tensors(value, buffer) for key, value in structure.items()}
    return [_to_tensors(item, buffer) for item in structure] if isinstance(structure, list) else structure
