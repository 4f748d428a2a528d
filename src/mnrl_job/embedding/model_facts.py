"""Facts about a model, without torch, so that the supervisor can read them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Assumptions about a base model whose files leave something open; None or empty if they do not.

    `unused_prompts` are names of its prompts that are used for neither queries nor documents.
    """

    pooling: str | None = None
    padding_token: str | None = None
    unused_prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`adapter_of` names the base of an adapter that was merged; None if the base model was no adapter."""

    parameters: int
    embedding_dimension: int
    max_seq_length: int | None
    revision: str | None
    query_prompt: str
    document_prompt: str
    assumed: Assumptions = Assumptions()
    adapter_of: str | None = None
