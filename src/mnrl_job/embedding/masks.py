"""Forward pass of a chunk without synchronizing with the device: whether texts are padded is known from padding them.

transformers drops an attention mask that masks nothing, since attention is faster without. To find out it reads the
mask, for which a GPU must finish its work, once for each chunk.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from mnrl_job.embedding.tokens import PADDED, Features

# Attention implementations whose mask function reads the mask.
IMPLEMENTATIONS = ("sdpa", "eager", "flash_attention_2")


def embed(model: nn.Module, features: Features, **options: Any) -> torch.Tensor:
    """The sentence embeddings of a chunk, shape (texts, dimension).

    The model may be wrapped for distributed training. The features are on its device, and are not modified.
    """
    features = dict(features)
    with _known_padding(features.pop(PADDED, None)):
        embeddings: torch.Tensor = model(features, **options)["sentence_embedding"]
    return embeddings


@contextmanager
def _known_padding(padded: bool | None) -> Iterator[None]:
    """Have transformers not read the mask; None if padding is unknown."""
    if padded is None:
        yield
        return
    for name in IMPLEMENTATIONS:
        ALL_MASK_ATTENTION_FUNCTIONS[name] = partial(_make_mask, ALL_MASK_ATTENTION_FUNCTIONS[name], padded)
    try:
        yield
    finally:
        for name in IMPLEMENTATIONS:
            del ALL_MASK_ATTENTION_FUNCTIONS[name]


def _make_mask(make: Callable[..., Any], padded: bool, *arguments: Any, **options: Any) -> Any:
    if padded:
        return make(*arguments, **options | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
    return make(*arguments, **options | {"attention_mask": None})
