"""Assumptions about a base model whose files leave something open: pooling, padding token, unused prompts."""

from collections.abc import Collection

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from mnrl_job.embedding.model_facts import Assumptions
from mnrl_job.embedding.prompts import PROMPTS, Kind, find_prompt
from mnrl_job.system.logs import warn


def find_assumptions(
    model: SentenceTransformer, padding_token: str | None = None, configured: Collection[Kind] = ()
) -> Assumptions:
    """The assumptions made about a model, as it will be used.

    `padding_token` was chosen if the tokenizer had none; `configured` are the kinds of texts whose prompt the user has
    set, even to an empty one.
    """
    # The library records arguments for each module that a folder lists, and none for those it adds by default.
    added = [] if model.module_kwargs else [module for module in model if isinstance(module, Pooling)]
    pooling = added[0].pooling_mode if added else None
    return Assumptions(str(pooling) if pooling else None, padding_token, _unused_prompts(model, configured))


def log_assumptions(assumed: Assumptions) -> None:
    """Warn about each assumption, with the remedy if it is wrong."""
    if assumed.pooling:
        warn(
            f"the base model does not define a pooling mode; assuming {assumed.pooling} pooling. For another mode, use "
            "a folder written by SentenceTransformer.save_pretrained()"
        )
    if assumed.padding_token:
        warn(f"the base model's tokenizer has no padding token; using {assumed.padding_token!r} for padding")
    if assumed.unused_prompts:
        names = ", ".join(assumed.unused_prompts)
        warn(
            f"the base model has unused prompts: {names}; only those named query and document are used. To use others, "
            "set MNRL_QUERY_PROMPT and MNRL_DOCUMENT_PROMPT"
        )


def _unused_prompts(model: SentenceTransformer, configured: Collection[Kind]) -> tuple[str, ...]:
    """Names of unused prompts, if queries or documents have no prompt and the user did not ask for that."""
    used = {kind: find_prompt(model, kind) for kind in PROMPTS}
    if all(prompt or kind in configured for kind, prompt in used.items()):
        return ()
    return tuple(sorted(name for name, prompt in model.prompts.items() if prompt and prompt not in used.values()))
