"""What was assumed of the base model, in words: for its card and for the page."""

from collections.abc import Mapping
from typing import Any


def assumptions(assumed: Mapping[str, Any]) -> list[str]:
    """One phrase each, from `model.assumed` of `metrics.json`."""
    told = []
    if assumed["pooling"]:
        told.append(f"{assumed['pooling']} pooling, since its files name none")
    if assumed["padding_token"]:
        told.append(f"{assumed['padding_token']} for padding, since its tokenizer had no token for that")
    if assumed["unused_prompts"]:
        told.append(f"no use for its prompts {', '.join(assumed['unused_prompts'])}")
    return told
