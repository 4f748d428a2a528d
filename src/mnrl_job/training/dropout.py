"""Dropout on a CPU, where drawing a random number for each activation takes a third of a step.

torch draws 32 bits or more for every number, in order. Here 64 random bits decide about four numbers: whether each is
dropped, with a probability right to 1 in 65,536. The bits are drawn by SFC64, twice as fast, which torch's generator
seeds each time; so a seed repeats a run, and activations computed again are the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional

STEPS = 2**16
TORCH_DROPOUT, TORCH_ATTENTION = functional.dropout, functional.scaled_dot_product_attention


@contextmanager
def cheap_dropout() -> Iterator[None]:
    """While it lasts, dropout and attention with dropout are computed as below, wherever a model calls torch's."""
    vars(functional).update(dropout=_dropout, scaled_dot_product_attention=_attention)
    try:
        yield
    finally:
        vars(functional).update(dropout=TORCH_DROPOUT, scaled_dot_product_attention=TORCH_ATTENTION)


def dropout(numbers: torch.Tensor, p: float) -> torch.Tensor:
    """Each number is 0 with probability p, else divided by 1 - p (Srivastava et al. 2014, section 4)."""
    seed = int(torch.empty((), dtype=torch.int64).random_())
    bits = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-numbers.numel() // 4))).view(torch.int16)
    kept = torch.empty(numbers.shape, dtype=numbers.dtype)
    torch.ge(bits[: numbers.numel()].view(numbers.shape), round(p * STEPS) - STEPS // 2, out=kept)
    return numbers * kept.mul_(1 / (1 - p))


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, p: float, scale: float
) -> torch.Tensor:
    """Softmax of the scaled products, dropped out, times the values (Vaswani et al. 2017, equation 1).

    Args:
        query: shape (..., tokens, dimension).
        key: as large.
        value: as large.
        mask: where True, a token may look at another, or what is added to the products; shape (..., tokens, tokens).
        p: probability of dropout.
        scale: multiplies the products.
    """
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (one.to(torch.get_autocast_dtype("cpu")) for one in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        scores = query @ key.transpose(-2, -1) * scale
        if mask is not None:
            scores = scores + _added(mask, scores.dtype)
        return dropout(scores.softmax(dim=-1), p) @ value


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What a mask adds to products of this type, which must stay so; a bias on the positions comes in fp32."""
    least = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, least)
    return mask.to(dtype).clamp(min=least)


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:  # noqa: A002
    """As `torch.nn.functional.dropout` is called."""
    if not training or p == 0 or inplace:
        return TORCH_DROPOUT(input, p, training, inplace)
    return dropout(input, p)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> torch.Tensor:
    """As `torch.nn.functional.scaled_dot_product_attention` is called."""
    scale = options.pop("scale", None) or query.shape[-1] ** -0.5
    if dropout_p == 0 or is_causal or options.get("enable_gqa"):
        options["scale"] = scale
        return TORCH_ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, **options)
    return attention(query, key, value, attn_mask, dropout_p, scale)
