"""What is decided for a model where its files leave it open: pooling, padding, prompts that nobody asks for."""

from collections.abc import Collection

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from mnrl_job.embedding.model_facts import Assumed
from mnrl_job.embedding.prompts import PROMPTS, Kind, find_prompt
from mnrl_job.system.logs import warn


def find_assumptions(
    model: SentenceTransformer, padding_token: str | None = None, decided: Collection[Kind] = ()
) -> Assumed:
    """What is assumed of a model.

    Args:
        model: as it will be used.
        padding_token: the token that was taken for padding, if it had none.
        decided: the kinds of texts whose prompt the user has set, be it to none.
    """
    # The library keeps a record of each module that a folder names, and none of those it adds by itself.
    added = [] if model.module_kwargs else [one for one in model if isinstance(one, Pooling)]
    pooling = added[0].pooling_mode if added else None
    return Assumed(str(pooling) if pooling else None, padding_token, _unused_prompts(model, decided))


def log_assumptions(assumed: Assumed) -> None:
    """Warn of each, with what to do where it is wrong."""
    if assumed.pooling:
        warn(
            f"the base model does not say how token embeddings are pooled, so {assumed.pooling} pooling is assumed; "
            "where it was made for another, give a folder that SentenceTransformer.save_pretrained() wrote with that"
        )
    if assumed.padding_token:
        warn(f"the base model's tokenizer has no padding token; {assumed.padding_token!r} is taken for padding")
    if assumed.unused_prompts:
        names = ", ".join(assumed.unused_prompts)
        warn(
            f"the base model has prompts that are not used: {names}; queries are read with the one called query and "
            "documents with the one called document, if any; for others set MNRL_QUERY_PROMPT and MNRL_DOCUMENT_PROMPT"
        )


def _unused_prompts(model: SentenceTransformer, decided: Collection[Kind]) -> tuple[str, ...]:
    """Names of prompts that stay unused, where queries or documents are read without one and nobody said so."""
    used = {kind: find_prompt(model, kind) for kind in PROMPTS}
    if all(prompt or kind in decided for kind, prompt in used.items()):
        return ()
    return tuple(sorted(name for name, prompt in model.prompts.items() if prompt and prompt not in used.values()))
