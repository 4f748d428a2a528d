"""Faster dropout on a CPU, where torch's spends a third of a training step on random numbers.

torch draws at least 32 bits per element, sequentially. Here 16 bits decide about an element, so that its drop
probability is exact to 1 in 65,536. The bits come from SFC64, twice as fast, seeded by torch's generator each time: a
seed reproduces a run, and recomputed activations get the same mask. Where this torch does not behave as the replacement
does, its own dropout is used.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from mnrl_job.system.logs import warn

LEVELS = 2**16
TORCH_DROPOUT, TORCH_ATTENTION = functional.dropout, functional.scaled_dot_product_attention


@contextmanager
def fast_dropout() -> Iterator[None]:
    """Replace torch's dropout and attention with dropout by those below, wherever a model calls them."""
    if not matches_torch():
        yield
        return
    vars(functional).update(dropout=_dropout, scaled_dot_product_attention=_attention)
    try:
        yield
    finally:
        vars(functional).update(dropout=TORCH_DROPOUT, scaled_dot_product_attention=TORCH_ATTENTION)


@cache
def matches_torch() -> bool:
    """Compare with torch's own functions, once per process: signature, scale, drop rate, and attention with a mask."""
    try:
        with torch.random.fork_rng([]), torch.autocast("cpu", enabled=False):
            matches = _same_signature() and _same_dropout() and _same_attention()
    except (TypeError, ValueError, RuntimeError):
        matches = False
    if not matches:
        warn(f"torch {torch.__version__} changed its dropout: using it instead of the faster replacement for CPUs")
    return matches


def dropout(tensor: torch.Tensor, p: float) -> torch.Tensor:
    """Zero each element with probability p, divide the others by 1 - p (Srivastava et al. 2014, section 4)."""
    seed = int(torch.empty((), dtype=torch.int64).random_())
    bits = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-tensor.numel() // 4))).view(torch.int16)
    mask = torch.empty(tensor.shape, dtype=tensor.dtype)
    torch.ge(bits[: tensor.numel()].view(tensor.shape), round(p * LEVELS) - LEVELS // 2, out=mask)
    return tensor * mask.mul_(1 / (1 - p))


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, p: float, scale: float
) -> torch.Tensor:
    """Scaled dot-product attention with dropout on its weights (Vaswani et al. 2017, equation 1).

    Query, key and value have the shape (..., tokens, dimension). The mask, of shape (..., tokens, tokens), is boolean,
    True where a token may attend, or a bias added to the scores.
    """
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        scores = query @ key.transpose(-2, -1) * scale
        if mask is not None:
            scores = scores + _attention_bias(mask, scores.dtype)
        return dropout(scores.softmax(dim=-1), p) @ value


def _attention_bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask as a bias of the scores' type: a positional bias comes in fp32 and would promote them."""
    lowest = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, lowest)
    return mask.to(dtype).clamp(min=lowest)


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:  # noqa: A002
    """Same signature as `torch.nn.functional.dropout`."""
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
    """Same signature as `torch.nn.functional.scaled_dot_product_attention`."""
    scale = options.pop("scale", None) or query.shape[-1] ** -0.5
    if dropout_p == 0 or is_causal or options.get("enable_gqa"):
        options["scale"] = scale
        return TORCH_ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, **options)
    return attention(query, key, value, attn_mask, dropout_p, scale)


def _same_signature() -> bool:
    ours, torchs = (inspect.signature(function).parameters for function in (_dropout, TORCH_DROPOUT))
    return [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in torchs.values()]


def _same_dropout() -> bool:
    """Same scale of what is kept, and a drop rate within five standard deviations of the expected one."""
    elements, p = torch.ones(64, 64), 0.25
    ours, torchs = _dropout(elements, p), TORCH_DROPOUT(elements, p)
    tolerance = 5 * (p * (1 - p) / elements.numel()) ** 0.5
    drop_rates = [float((result == 0).float().mean()) for result in (ours, torchs)]
    return torch.allclose(ours.max(), torchs.max()) and all(abs(rate - p) < tolerance for rate in drop_rates)


def _same_attention() -> bool:
    """Without dropout the result is deterministic: compare it, with a mask that hides the last token."""
    query = torch.linspace(-1, 1, 64).view(1, 2, 4, 8)
    key, value = query.flip(-1), query.flip(-2)
    mask = (torch.arange(4) < 3).expand(1, 1, 4, 4)
    ours = attention(query, key, value, mask, 0.0, 0.5)
    torchs = TORCH_ATTENTION(query, key, value, attn_mask=mask, dropout_p=0.0, is_causal=False, scale=0.5)
    return torch.allclose(ours, torchs, rtol=1e-4, atol=1e-5)
