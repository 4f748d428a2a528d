"""Do tokenizer and embeddings belong together? And what texts are padded with."""

from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import PreTrainedTokenizerBase

from mnrl_job.errors import DataError
from mnrl_job.system.logs import warn

# For a folder without a vocabulary the library makes one of special tokens, and of a blank or two.
MADE_UP_TOKENS = 2
# Matrices are padded to round numbers, by far less than this.
FEW, FEWER = 0.9, 0.5
AGAIN = "give the model with the tokenizer files it was trained with"


def check_vocabulary(model: SentenceTransformer, told: str) -> None:
    """Every token has an embedding, and the tokenizer is no other model's, nor made up.

    Args:
        model: just loaded.
        told: how a message begins.

    Raises:
        DataError: saying what does not fit.
    """
    vocabulary, special = _vocabulary(model.tokenizer)
    if vocabulary is None:
        return
    if len(vocabulary.keys() - special) <= MADE_UP_TOKENS:
        raise DataError(f"{told}: it has no tokenizer files, or none with a vocabulary; {AGAIN}")
    rows = _embeddings(model)
    if rows is None:
        return
    token, last = max(vocabulary.items(), key=lambda one: one[1])
    if last >= rows:
        raise DataError(
            f"{told}: its tokenizer has the token {token!r} with the number {last}, but there are {rows} embeddings; "
            "give the tokenizer it was trained with, or resize its embeddings and train them"
        )
    if len(vocabulary) < FEWER * rows:
        raise DataError(f"{told}: its tokenizer has {len(vocabulary)} tokens for {rows} embeddings; {AGAIN}")
    if len(vocabulary) < FEW * rows:
        warn(f"{told}: its tokenizer has {len(vocabulary)} tokens for {rows} embeddings; it may be another model's")


def ensure_padding(model: SentenceTransformer, told: str) -> str | None:
    """Give a tokenizer that knows no padding one of its tokens for it, which the attention mask hides.

    Returns:
        That token; None where nothing was to be done.

    Raises:
        DataError: no token can serve.
    """
    tokenizer: Any = model.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or tokenizer.pad_token is not None:
        return None
    number = getattr(getattr(model.transformers_model, "config", None), "pad_token_id", None)
    meant = (
        tokenizer.convert_ids_to_tokens(number) if isinstance(number, int) and 0 <= number < len(tokenizer) else None
    )
    token = meant or tokenizer.eos_token or tokenizer.unk_token
    if token is None:
        raise DataError(f"{told}: its tokenizer has no padding token; name one as pad_token in tokenizer_config.json")
    tokenizer.pad_token = token
    return str(token)


def _vocabulary(tokenizer: Any) -> tuple[dict[str, int] | None, set[str]]:
    """Numbers by token, and the tokens that stand for no text; None where a model does not number tokens like that."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer.get_vocab(), set(tokenizer.all_special_tokens)
    if hasattr(tokenizer, "get_vocab_size"):  # of the package tokenizers, for models without layers
        return tokenizer.get_vocab(), set()
    return None, set()


def _embeddings(model: SentenceTransformer) -> int | None:
    """How many tokens have an embedding; None where they have none of their own, as characters that are hashed."""
    backbone: Any = model.transformers_model
    if backbone is None:
        matrix = getattr(model[0], "embedding", None)
    else:
        try:
            matrix = backbone.get_input_embeddings()
        except NotImplementedError:
            return None
    return matrix.num_embeddings if isinstance(matrix, nn.Embedding | nn.EmbeddingBag) else None
