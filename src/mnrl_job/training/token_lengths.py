"""How long the training texts are in tokens, and how many are cut."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import read_table, take, texts_of
from mnrl_job.embedding.positions import max_tokens
from mnrl_job.embedding.prompts import find_prompt, kinds_of
from mnrl_job.training.results import TokenLengths

SAMPLED_ROWS = 10_000
PERCENTILES = (50, 90, 99, 100)


def measure_lengths(model: SentenceTransformer, pairs: Pairs) -> TokenLengths | None:
    """Tokenise a sample with prompts, evenly spread over the texts of a column; None without a tokenizer to count."""
    tokenizer: Any = model.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return None
    table = read_table(pairs.path)
    limit = max_tokens(model)
    columns: dict[str, dict[str, float]] = {}
    for name, kind in zip(pairs.columns, kinds_of(len(pairs.columns)), strict=True):
        prompt = find_prompt(model, kind) or ""
        column = texts_of(table, name)
        texts = [prompt + text for text in take(column, _sampled(len(column))).to_pylist()]
        lengths = np.array([len(ids) for ids in tokenizer(texts, truncation=False, verbose=False)["input_ids"]])
        marks = np.percentile(lengths, PERCENTILES, method="lower").tolist()
        columns[name] = {f"p{mark}": int(value) for mark, value in zip(PERCENTILES, marks, strict=True)}
        columns[name]["truncated"] = round(float((lengths > limit).mean()), 4) if limit else 0.0
    return TokenLengths(len(_sampled(pairs.rows)), limit, columns)


def _sampled(count: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, SAMPLED_ROWS)).astype(np.int64)
