"""Prompts that a model prepends to texts, the same in training, evaluation and use."""

import hashlib
from pathlib import Path
from typing import Literal

from sentence_transformers import SentenceTransformer

Kind = Literal["query", "document"]
# Names of the prompt of each kind, in the order in which the library looks for them.
PROMPTS: dict[Kind, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


def find_prompt(model: SentenceTransformer, kind: Kind) -> str | None:
    """The prompt that the library's `encode_query` and `encode_document` prepend to texts of this kind."""
    name = next((name for name in PROMPTS[kind] if name in model.prompts), model.default_prompt_name)
    return model.prompts.get(name) if name else None


def kinds_of(columns: int) -> tuple[Kind, ...]:
    """Kinds of the columns of training pairs: queries first, then documents."""
    documents: list[Kind] = ["document"] * (columns - 1)
    return ("query", *documents)


def token_file(path: Path, prompt: str | None) -> Path:
    """The token file of texts with this prompt: another prompt means other tokens."""
    if not prompt:
        return path
    return path.with_stem(f"{path.stem}-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}")
