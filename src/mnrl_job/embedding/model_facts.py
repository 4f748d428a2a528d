"""What a model is, and what was assumed of it, without torch, so that the supervisor can read it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Assumed:
    """What was decided for a base model whose files leave it open; None or empty where they do not.

    `unused_prompts` are the names of prompts it has that neither queries nor documents are read with.
    """

    pooling: str | None = None
    padding_token: str | None = None
    unused_prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`adapter_of` names the model that the base model was an adapter of, merged into it; None where it was none."""

    parameters: int
    embedding_dimension: int
    max_seq_length: int | None
    revision: str | None
    query_prompt: str
    document_prompt: str
    assumed: Assumed = Assumed()
    adapter_of: str | None = None
