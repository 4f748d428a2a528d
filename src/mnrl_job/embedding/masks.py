"""Embeddings of a chunk without waiting for the device: whether texts are padded is known where they were padded.

transformers leaves an attention mask out that masks nothing, since attention is faster without. To see whether it does
so, it reads the mask, and a GPU has to finish its work for that, once for each chunk.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from mnrl_job.embedding.tokens import PADDED, Features

READ = ("sdpa", "eager", "flash_attention_2")


def embed(model: nn.Module, features: Features, **options: Any) -> torch.Tensor:
    """The sentence embeddings of a chunk, shape (texts, dimension).

    Args:
        model: a Sentence Transformers model, also wrapped for several processes.
        features: of the chunk, on the model's device; left as they are.
        options: for the model's modules.
    """
    features = dict(features)
    with _known(features.pop(PADDED, None)):
        embeddings: torch.Tensor = model(features, **options)["sentence_embedding"]
    return embeddings


@contextmanager
def _known(padded: bool | None) -> Iterator[None]:
    """While it lasts, transformers need not look whether a mask masks anything; None where nobody knows."""
    if padded is None:
        yield
        return
    for name in READ:
        ALL_MASK_ATTENTION_FUNCTIONS[name] = partial(_mask, ALL_MASK_ATTENTION_FUNCTIONS[name], padded)
    try:
        yield
    finally:
        for name in READ:
            del ALL_MASK_ATTENTION_FUNCTIONS[name]


def _mask(make: Callable[..., Any], padded: bool, *arguments: Any, **options: Any) -> Any:
    """What `make` gives, by what it would find: of padded texts a mask, of others what their shape alone asks for."""
    if padded:
        return make(*arguments, **options | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
    return make(*arguments, **options | {"attention_mask": None})
