"""Assumptions about the base model in words, for the model card and the HTML report."""

from collections.abc import Mapping
from typing import Any


def assumptions(assumed: Mapping[str, Any]) -> list[str]:
    """A phrase for each assumption in `model.assumed` of `metrics.json`."""
    phrases = []
    if assumed["pooling"]:
        phrases.append(f"{assumed['pooling']} pooling, as its files specify none")
    if assumed["padding_token"]:
        phrases.append(f"{assumed['padding_token']} for padding, as its tokenizer has no padding token")
    if assumed["unused_prompts"]:
        phrases.append(f"unused prompts {', '.join(assumed['unused_prompts'])}")
    return phrases
