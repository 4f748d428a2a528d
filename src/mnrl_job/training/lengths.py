"""How long the training texts are in tokens, and how many are cut."""

from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from mnrl_job.embedding.prompts import find_prompt, kinds_of
from mnrl_job.records import Pairs, TokenLengths
from mnrl_job.runtime.tables import read_table, take

SAMPLED_ROWS = 10_000
PERCENTILES = (50, 90, 99, 100)


def measure_lengths(model: SentenceTransformer, pairs: Pairs) -> TokenLengths | None:
    """Tokenise a sample with prompts, evenly spread over the rows; None where the model has no tokenizer to count."""
    tokenizer: Any = model.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return None
    table = read_table(pairs.path)
    rows = np.linspace(0, pairs.rows - 1, min(pairs.rows, SAMPLED_ROWS)).astype(np.int64)
    limit = model.max_seq_length
    columns: dict[str, dict[str, float]] = {}
    for name, kind in zip(pairs.columns, kinds_of(len(pairs.columns)), strict=True):
        prompt = find_prompt(model, kind) or ""
        texts = [prompt + text for text in take(table[name], rows).to_pylist() if text]
        lengths = np.array([len(ids) for ids in tokenizer(texts, truncation=False, verbose=False)["input_ids"]] or [0])
        marks = np.percentile(lengths, PERCENTILES, method="lower").tolist()
        columns[name] = {f"p{mark}": int(value) for mark, value in zip(PERCENTILES, marks, strict=True)}
        columns[name]["truncated"] = round(float((lengths > limit).mean()), 4) if limit else 0.0
    return TokenLengths(len(rows), int(limit) if limit and np.isfinite(limit) else None, columns)
