"""What a model puts before each text: the prompt of its kind, the same in training, evaluation and use."""

import hashlib
from pathlib import Path
from typing import Literal

from sentence_transformers import SentenceTransformer

Kind = Literal["query", "document"]
# Where a model keeps the prompt of a kind, the first that it has; as the library looks for it.
PROMPTS: dict[Kind, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


def find_prompt(model: SentenceTransformer, kind: Kind) -> str | None:
    """What the model puts before each text of a kind, in the library's `encode_query` and `encode_document`, too."""
    name = next((name for name in PROMPTS[kind] if name in model.prompts), model.default_prompt_name)
    return model.prompts.get(name) if name else None


def kinds_of(columns: int) -> tuple[Kind, ...]:
    """Of each column of the training pairs: the first has the queries, all others documents."""
    documents: list[Kind] = ["document"] * (columns - 1)
    return ("query", *documents)


def token_file(path: Path, prompt: str | None) -> Path:
    """Where the tokens of texts with this prompt are kept: with another one they are others."""
    if not prompt:
        return path
    return path.with_stem(f"{path.stem}-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}")
