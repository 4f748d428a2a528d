"""Whether a training can use the prepared tokens."""

from dataclasses import replace

from sentence_transformers import SentenceTransformer

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.embedding.token_fingerprint import token_fingerprint
from mnrl_job.errors import SettingsError
from mnrl_job.system.logs import log


def with_usable_tokens(
    model: SentenceTransformer, settings: Settings, pairs: Pairs, batch_plan: BatchPlan
) -> BatchPlan:
    """The plan; without its tokens, which is logged, if training needs the texts or other tokens.

    Raises:
        SettingsError: it does, and the texts are not on this machine.
    """
    if batch_plan.tokens is None:
        return batch_plan
    if settings.num_hard_negatives:
        reason = "MNRL_NUM_HARD_NEGATIVES adds negatives to each pair"
    elif settings.loss == "guided":
        reason = "MNRL_LOSS=guided needs the texts"
    elif token_fingerprint(model) != batch_plan.tokens.fingerprint:
        reason = "the model has another tokenizer, maximum length or prompt"
    else:
        return batch_plan
    if not pairs.path.exists():
        raise SettingsError(f"MNRL_TRAIN_DATA: cannot train on the prepared tokens: {reason}; prepare the data for it")
    log(f"tokenizing batch by batch instead of using the prepared tokens: {reason}")
    return replace(batch_plan, tokens=None)
