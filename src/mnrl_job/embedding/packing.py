"""Many tensors as one, so that they travel between host and device in one copy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the packed bytes a tensor is."""

    start: int
    dtype: torch.dtype
    shape: torch.Size


@dataclass(frozen=True, slots=True)
class Layout:
    """What was packed, with places instead of tensors. It is no container, so that nobody looks for tensors inside."""

    content: Any


Packed = dict[str, Any]


def pack(content: Any) -> Packed:
    """Lay all tensors of nested dictionaries and lists, which are on one device, one after another.

    Returns:
        The bytes as `packed`, and how to find the tensors in them as `layout`.
    """
    # The widest numbers come first, so that each tensor begins at a multiple of its own width.
    tensors = sorted(_tensors(content), key=lambda one: -one.element_size())
    places: dict[int, Place] = {}
    start = 0
    for tensor in tensors:
        places[id(tensor)] = Place(start, tensor.dtype, tensor.shape)
        start += tensor.numel() * tensor.element_size()
    flat = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    return {"packed": torch.cat(flat), "layout": Layout(_replaced(content, places))}


def unpack(packed: Packed) -> Any:
    """What was packed; its tensors are views of the bytes, wherever these are now."""
    return _found(packed["layout"].content, packed["packed"])


def to_host(content: Any) -> Any:
    """The same with its tensors on the host, which waits once for the device."""
    packed = pack(content)
    return unpack(packed | {"packed": packed["packed"].cpu()})


def to_device(content: Any, device: torch.device) -> Any:
    """The same with its tensors, which are on the host, on the device; the host does not wait for it."""
    if device.type == "cpu":
        return content
    packed = pack(content)
    return unpack(packed | {"packed": packed["packed"].pin_memory().to(device, non_blocking=True)})


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(content):
        yield content
    elif isinstance(content, dict | list):
        for one in content.values() if isinstance(content, dict) else content:
            yield from _tensors(one)


def _replaced(content: Any, places: dict[int, Place]) -> Any:
    if torch.is_tensor(content):
        return places[id(content)]
    if isinstance(content, dict):
        return {name: _replaced(one, places) for name, one in content.items()}
    return [_replaced(one, places) for one in content] if isinstance(content, list) else content


def _found(content: Any, packed: torch.Tensor) -> Any:
    if isinstance(content, Place):
        stop = content.start + content.shape.numel() * content.dtype.itemsize
        return packed[content.start : stop].view(content.dtype).view(content.shape)
    if isinstance(content, dict):
        return {name: _found(one, packed) for name, one in content.items()}
    return [_found(one, packed) for one in content] if isinstance(content, list) else content
