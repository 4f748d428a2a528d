"""Word embeddings looked up once a step instead of once a chunk, which a CPU feels.

The gradient of a lookup is as large as the whole table of words, mostly zeros, and every chunk would make one and add
it to the others. So the words of a step are looked up once, and chunks look theirs up among these.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from sentence_transformers import SentenceTransformer
from torch import nn


def word_embedding(model: SentenceTransformer) -> nn.Embedding | None:
    """The table of words that this can be done with, if the model has one."""
    backbone = model.transformers_model
    found = backbone.get_input_embeddings() if backbone is not None else None
    if type(found) is not nn.Embedding or found.sparse or found.scale_grad_by_freq or found.max_norm:
        return None
    if not found.weight.requires_grad:  # then there is no gradient to save
        return None
    return found


@contextmanager
def shared_lookup(embedding: nn.Embedding, ids: Iterable[torch.Tensor]) -> Iterator[None]:
    """While a step lasts, forward and backward, look up these ids, and no others, among their own embeddings."""
    used: torch.Tensor = torch.cat([one.ravel() for one in ids]).unique()  # type: ignore[no-untyped-call]
    rows = nn.functional.embedding(used, embedding.weight, embedding.padding_idx)

    def look_up(ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(torch.searchsorted(used, ids), rows)

    vars(embedding)["forward"] = look_up
    try:
        yield
    finally:
        del vars(embedding)["forward"]
