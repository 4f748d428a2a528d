"""Token lengths of the training texts, and the fraction that is truncated."""

from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import evenly_spaced, read_table, take, texts_of
from mnrl_job.embedding.positions import max_tokens
from mnrl_job.embedding.prompts import find_prompt, kinds_of
from mnrl_job.embedding.tokens import TEXTS_PER_CALL
from mnrl_job.training.results import TokenLengths

SAMPLED_ROWS = 10_000
PERCENTILES = (50, 90, 99, 100)


def measure_lengths(model: SentenceTransformer, pairs: Pairs) -> TokenLengths | None:
    """Tokenize an evenly spaced sample of each column, with prompts; None if the model has no such tokenizer."""
    tokenizer: Any = model.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return None
    table = read_table(pairs.path)
    limit = max_tokens(model)
    columns: dict[str, dict[str, float]] = {}
    for name, kind in zip(pairs.columns, kinds_of(len(pairs.columns)), strict=True):
        prompt = find_prompt(model, kind) or ""
        column = texts_of(table, name)
        texts = [prompt + text for text in take(column, evenly_spaced(len(column), SAMPLED_ROWS)).to_pylist()]
        calls = (texts[start : start + TEXTS_PER_CALL] for start in range(0, len(texts), TEXTS_PER_CALL))
        ids = (tokenizer(call, truncation=False, verbose=False)["input_ids"] for call in calls)
        lengths = np.array([len(one) for made in ids for one in made])
        values = np.percentile(lengths, PERCENTILES, method="lower").tolist()
        columns[name] = {f"p{percentile}": int(value) for percentile, value in zip(PERCENTILES, values, strict=True)}
        columns[name]["truncated"] = round(float((lengths > limit).mean()), 4) if limit else 0.0
    return TokenLengths(min(pairs.rows, SAMPLED_ROWS), limit, columns)
