"""The rows of a batch as model input: looked up, cut into chunks and padded before the device asks for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from mnrl_job.embedding.chunks import Limit, cut
from mnrl_job.embedding.tokens import Preprocess, Tokens, read_or_tokenise
from mnrl_job.records import Pairs
from mnrl_job.runtime.tables import read_table

# A rank's share of a batch. The texts of all columns stand in `chunks`; of their embeddings, one after another, `order`
# picks those of the first column, row by row, then those of the second, and so on. `label` has the row number and the
# groups of each row. `tokens` and `padded_tokens` are counts.
Batch = dict[str, Any]


class TokenCollator(SentenceTransformerDataCollator):
    """Reads texts that were tokenised before, and cuts those of all columns together."""

    def __init__(self, preprocess: Preprocess, columns: Sequence[Tokens], limit: Limit) -> None:
        super().__init__(preprocess)
        self.columns = columns
        self.limit = limit
        self.longest = max(int(column.lengths.max()) for column in columns)

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        label = torch.tensor([row["label"] for row in rows])
        numbers = label[:, 0].tolist()
        texts = [column[number] for column in self.columns for number in numbers]
        chunks = cut(np.array([len(text) for text in texts]), self.limit, self.longest)
        form = self.columns[0].form
        padded = [form.features([texts[at] for at in chunk.rows.tolist()], chunk.width) for chunk in chunks]
        return Batch(
            chunks=padded,
            order=torch.from_numpy(np.concatenate([chunk.rows for chunk in chunks]).argsort()),
            label=label,
            tokens=sum(map(len, texts)),
            padded_tokens=sum(chunk["input_ids"].numel() for chunk in padded),
        )


class TextCollator(SentenceTransformerDataCollator):
    """For models whose input is not made of token ids: the library's preprocessing, a chunk for each column."""

    def __init__(self, preprocess: Preprocess, columns: Sequence[str], texts: Dataset) -> None:
        super().__init__(preprocess)
        self.texts = texts
        self.columns = columns

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        label = torch.tensor([row["label"] for row in rows])
        texts = self.texts[label[:, 0].tolist()]
        chunks = [self.preprocess_fn(texts[column]) for column in self.columns]
        order = torch.arange(len(rows) * len(self.columns))
        return Batch(chunks=chunks, order=order, label=label, tokens=0, padded_tokens=0)


def collator(model: SentenceTransformer, pairs: Pairs, limit: Limit, folder: Path) -> TokenCollator | TextCollator:
    """Tokenise all texts, once for all workers of this machine, where the model reads token ids."""
    table = read_table(pairs.path)
    paths = [folder / f"{column}.arrow" for column in pairs.columns]
    columns = read_or_tokenise(model.preprocess, model.tokenizer, [table[column] for column in pairs.columns], paths)
    if columns is None:
        return TextCollator(model.preprocess, pairs.columns, Dataset.from_file(str(pairs.path)))
    return TokenCollator(model.preprocess, columns, limit)
