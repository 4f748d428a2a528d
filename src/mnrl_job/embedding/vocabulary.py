"""Whether tokenizer and token embeddings belong together, and which token pads texts."""

from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import PreTrainedTokenizerBase

from mnrl_job.errors import DataError
from mnrl_job.system.logs import warn

# For a folder without a vocabulary the library creates one of special tokens and up to two others.
DEFAULT_TOKENS = 2
# Embedding matrices are padded to round sizes, which leaves far fewer unused rows than these fractions.
WARN_BELOW, REFUSE_BELOW = 0.9, 0.5
REMEDY = "use the model with its original tokenizer files"


def check_vocabulary(model: SentenceTransformer, subject: str) -> None:
    """Check that every token has an embedding, and that the tokenizer is the model's own.

    Raises:
        DataError: the tokenizer does not fit the embeddings.
    """
    vocabulary, special = _vocabulary(model.tokenizer)
    if vocabulary is None:
        return
    if len(vocabulary.keys() - special) <= DEFAULT_TOKENS:
        raise DataError(f"{subject}: it has no tokenizer files, or none with a vocabulary; {REMEDY}")
    rows = _embedding_rows(model)
    if rows is None:
        return
    token, last = max(vocabulary.items(), key=lambda item: item[1])
    if last >= rows:
        raise DataError(
            f"{subject}: its tokenizer has the token {token!r} with id {last}, but there are only {rows} embeddings; "
            "use its original tokenizer, or resize its embeddings and train them"
        )
    if len(vocabulary) < REFUSE_BELOW * rows:
        raise DataError(f"{subject}: its tokenizer has {len(vocabulary)} tokens for {rows} embeddings; {REMEDY}")
    if len(vocabulary) < WARN_BELOW * rows:
        warn(f"{subject}: its tokenizer has {len(vocabulary)} tokens for {rows} embeddings; it may be another model's")


def ensure_padding(model: SentenceTransformer, subject: str) -> str | None:
    """Set a padding token if the tokenizer has none, and return it; the attention mask hides it.

    Raises:
        DataError: no token can be used for padding.
    """
    tokenizer: Any = model.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or tokenizer.pad_token is not None:
        return None
    pad_id = getattr(getattr(model.transformers_model, "config", None), "pad_token_id", None)
    configured = (
        tokenizer.convert_ids_to_tokens(pad_id) if isinstance(pad_id, int) and 0 <= pad_id < len(tokenizer) else None
    )
    token = configured or tokenizer.eos_token or tokenizer.unk_token
    if token is None:
        raise DataError(f"{subject}: its tokenizer has no padding token; set pad_token in tokenizer_config.json")
    tokenizer.pad_token = token
    return str(token)


def _vocabulary(tokenizer: Any) -> tuple[dict[str, int] | None, set[str]]:
    """Token ids by token, and the special tokens; None for tokenizers of another kind."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer.get_vocab(), set(tokenizer.all_special_tokens)
    if hasattr(tokenizer, "get_vocab_size"):  # of the tokenizers package, for static embeddings
        return tokenizer.get_vocab(), set()
    return None, set()


def _embedding_rows(model: SentenceTransformer) -> int | None:
    """Number of token embeddings; None if the model has none, such as models that hash characters."""
    backbone: Any = model.transformers_model
    if backbone is None:
        matrix = getattr(model[0], "embedding", None)
    else:
        try:
            matrix = backbone.get_input_embeddings()
        except NotImplementedError:
            return None
    return matrix.num_embeddings if isinstance(matrix, nn.Embedding | nn.EmbeddingBag) else None
