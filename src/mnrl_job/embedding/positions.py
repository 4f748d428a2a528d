"""The maximum sequence length of a model: limited by its position embeddings, whatever its files or a setting say."""

import math
from collections.abc import Iterator
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn

from mnrl_job.errors import SettingsError
from mnrl_job.system.logs import warn

# Names of position embeddings of transformers; those of images and layouts have other names.
TABLES = ("position_embeddings", "position_embedding", "positions_embed", "embed_positions", "wpe")
IMAGES = ("vision", "visual", "image")
# Tokenizers without a limit have 1e30.
NO_LIMIT = 10**9


def max_tokens(model: SentenceTransformer) -> int | None:
    """The number of tokens at which texts are truncated; None if they are not."""
    limit: Any = model.max_seq_length
    return int(limit) if limit and math.isfinite(limit) and limit < NO_LIMIT else None


def limit_to_positions(model: SentenceTransformer, subject: str) -> None:
    """Truncate texts at the number of positions, if the model's files say more."""
    available, configured = positions(model), max_tokens(model)
    if available is None or (configured is not None and configured <= available):
        return
    if configured is not None:
        warn(
            f"{subject}: its files say {configured} tokens, but it has {available} positions; truncating texts at "
            f"{available} tokens"
        )
    model.max_seq_length = available


def set_max_tokens(model: SentenceTransformer, max_seq_length: int) -> None:
    """Apply MNRL_MAX_SEQ_LENGTH.

    Raises:
        SettingsError: the model has fewer positions.
    """
    available = positions(model)
    if available is not None and max_seq_length > available:
        raise SettingsError(f"MNRL_MAX_SEQ_LENGTH={max_seq_length}: the model accepts at most {available} tokens")
    model.max_seq_length = max_seq_length


def positions(model: SentenceTransformer) -> int | None:
    """The longest text that the backbone accepts, in tokens; None if only memory limits it."""
    backbone: Any = model.transformers_model
    if backbone is None:
        return None
    config = backbone.config.get_text_config() if hasattr(backbone.config, "get_text_config") else backbone.config
    configured = getattr(config, "max_position_embeddings", None)
    limits = [configured] if isinstance(configured, int) and configured > 0 else []  # XLNet has -1 for none
    return min([*limits, *_table_sizes(backbone)], default=None)


def _table_sizes(backbone: nn.Module) -> Iterator[int]:
    """Usable rows of each position embedding. RoBERTa starts after the padding index, BART at an offset."""
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] not in TABLES or any(word in name for word in IMAGES):
            continue
        if isinstance(module, nn.Embedding):
            offset = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            yield module.num_embeddings - offset
