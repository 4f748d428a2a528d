"""How many tokens a model takes: what its positions hold, whatever its files or a setting say."""

import math
from collections.abc import Iterator
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn

from mnrl_job.errors import SettingsError
from mnrl_job.system.logs import warn

# What transformer families call their table of positions; those of images and of layouts are called otherwise.
TABLES = ("position_embeddings", "position_embedding", "positions_embed", "embed_positions", "wpe")
IMAGES = ("vision", "visual", "image")
# Tokenizers without a limit say 1e30.
NO_LIMIT = 10**9


def max_tokens(model: SentenceTransformer) -> int | None:
    """The tokens that a text is cut at; None where it is read whole."""
    limit: Any = model.max_seq_length
    return int(limit) if limit and math.isfinite(limit) and limit < NO_LIMIT else None


def cut_to_positions(model: SentenceTransformer, told: str) -> None:
    """Have texts cut at what the positions hold, where the files of a model promise more."""
    holds, promised = positions(model), max_tokens(model)
    if holds is None or (promised is not None and promised <= holds):
        return
    if promised is not None:
        warn(f"{told}: its files say {promised} tokens, its positions hold {holds}; texts are cut at {holds}")
    model.max_seq_length = holds


def set_max_tokens(model: SentenceTransformer, wanted: int) -> None:
    """Have texts cut at what MNRL_MAX_SEQ_LENGTH says.

    Raises:
        SettingsError: the model takes fewer.
    """
    holds = positions(model)
    if holds is not None and wanted > holds:
        raise SettingsError(f"MNRL_MAX_SEQ_LENGTH={wanted}: the model takes {holds} at most")
    model.max_seq_length = wanted


def positions(model: SentenceTransformer) -> int | None:
    """The longest text that the backbone can take; None where that is only a matter of memory."""
    backbone: Any = model.transformers_model
    if backbone is None:
        return None
    config = backbone.config.get_text_config() if hasattr(backbone.config, "get_text_config") else backbone.config
    claimed = getattr(config, "max_position_embeddings", None)
    found = [claimed] if isinstance(claimed, int) and claimed > 0 else []  # XLNet has -1 for none
    return min([*found, *_tables(backbone)], default=None)


def _tables(backbone: nn.Module) -> Iterator[int]:
    """What each table of positions holds. RoBERTa's kind begins behind the padding's number, BART's at an offset."""
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] not in TABLES or any(word in name for word in IMAGES):
            continue
        if isinstance(module, nn.Embedding):
            offset = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            yield module.num_embeddings - offset
