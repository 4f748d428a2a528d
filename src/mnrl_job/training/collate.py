"""The rows of a batch as model input: looked up, cut into chunks and padded before the device asks for them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from mnrl_job.embedding.chunks import Limit, cut
from mnrl_job.embedding.prompts import find_prompt, kinds_of, token_file
from mnrl_job.embedding.tokens import Form, Preprocess, Tokens, read_or_tokenise
from mnrl_job.records import Pairs
from mnrl_job.runtime.tables import read_table
from mnrl_job.training.guide import Guide
from mnrl_job.training.negatives import HardNegatives

POSITIVE = 1

# A rank's share of a batch. The texts of all columns, mined negatives last, stand in `chunks`; of their embeddings, one
# after another, `order` picks those of the first column, row by row, then those of the second, and so on. `label` has
# the row number and the groups of each row. `tokens` and `padded_tokens` are counts. With a guide, `guide` has what it
# makes of the texts, of shape (rows, columns, dimension).
Batch = dict[str, Any]


class TokenCollator(SentenceTransformerDataCollator):
    """Reads texts that were tokenised before, and cuts those of all columns together.

    Apart are only columns that the model must be told other things about: where their prompts are of different length,
    and it may have to leave them out of the mean.
    """

    def __init__(self, preprocess: Preprocess, columns: Sequence[Tokens], limit: Limit) -> None:
        super().__init__(preprocess)
        self.columns = columns
        self.limit = limit
        self.guide: Guide | None = None
        self.negatives: HardNegatives | None = None
        self.longest = max(int(column.lengths.max()) for column in columns)
        self.forms: list[tuple[Form, list[int]]] = []
        for number, column in enumerate(columns):
            alike = next((numbers for form, numbers in self.forms if form == column.form), None)
            if alike is None:
                self.forms.append((column.form, [number]))
            else:
                alike.append(number)

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        label = torch.tensor([row["label"] for row in rows])
        asked = asked_texts(len(self.columns), label[:, 0].tolist(), self.negatives)
        texts = [self.columns[column][number] for column, numbers in asked for number in numbers]
        column_of = np.repeat([column for column, _ in asked], len(rows))
        lengths = np.array([len(text) for text in texts])
        padded, order = [], []
        for form, columns in self.forms:
            places = np.flatnonzero(np.isin(column_of, columns))
            for chunk in cut(lengths[places], self.limit, self.longest):
                at = places[chunk.rows]
                padded.append(form.features([texts[place] for place in at.tolist()], chunk.width))
                order.append(at)
        return Batch(
            chunks=padded,
            order=torch.from_numpy(np.concatenate(order).argsort()),
            label=with_negatives(label, self.negatives),
            tokens=sum(map(len, texts)),
            padded_tokens=sum(chunk["input_ids"].numel() for chunk in padded),
            **guided(self.guide, asked),
        )

    def row_lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of all texts of some rows."""
        asked = asked_texts(len(self.columns), rows.tolist(), self.negatives)
        total: NDArray[np.int64] = np.sum([self.columns[column].lengths[numbers] for column, numbers in asked], axis=0)
        return total


class TextCollator(SentenceTransformerDataCollator):
    """For models whose input is not made of token ids: the library's preprocessing, a chunk for each column."""

    def __init__(self, preprocess: Sequence[Preprocess], columns: Sequence[str], texts: Dataset) -> None:
        super().__init__(preprocess[0])
        self.texts = texts
        self.columns = dict(zip(columns, preprocess, strict=True))
        self.guide: Guide | None = None
        self.negatives: HardNegatives | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        label = torch.tensor([row["label"] for row in rows])
        asked = asked_texts(len(self.columns), label[:, 0].tolist(), self.negatives)
        columns = list(self.columns.items())
        chunks = []
        for column, numbers in asked:
            name, preprocess = columns[column]
            chunks.append(preprocess(self.texts[numbers][name]))
        return Batch(
            chunks=chunks,
            order=torch.arange(len(rows) * len(asked)),
            label=with_negatives(label, self.negatives),
            tokens=0,
            padded_tokens=0,
            **guided(self.guide, asked),
        )


def asked_texts(columns: int, rows: list[int], negatives: HardNegatives | None) -> list[tuple[int, list[int]]]:
    """The texts of some rows, column by column: the column where they stand, and their rows there.

    Mined negatives are the positives of other rows.
    """
    given = [(column, rows) for column in range(columns)]
    mined = negatives.rows_of(rows) if negatives else []
    return given + [(POSITIVE, numbers) for numbers in mined]


def with_negatives(label: torch.Tensor, negatives: HardNegatives | None) -> torch.Tensor:
    """The labels of some rows, with the groups of their mined negatives."""
    return torch.cat([label, negatives.groups_of(label[:, 0].tolist())], dim=1) if negatives else label


def guided(guide: Guide | None, asked: list[tuple[int, list[int]]]) -> dict[str, torch.Tensor]:
    """What a guide, if there is one, makes of these texts."""
    return {"guide": guide.of(asked)} if guide else {}


def collator(model: SentenceTransformer, pairs: Pairs, limit: Limit, folder: Path) -> TokenCollator | TextCollator:
    """Tokenise all texts with their prompts, once for all workers of this machine, where the model reads token ids."""
    table = read_table(pairs.path)
    prompts = [find_prompt(model, kind) for kind in kinds_of(len(pairs.columns))]
    preprocess = [partial(model.preprocess, prompt=prompt) for prompt in prompts]
    paths = [token_file(folder / f"{name}.arrow", prompt) for name, prompt in zip(pairs.columns, prompts, strict=True)]
    columns = read_or_tokenise(preprocess, model.tokenizer, [table[name] for name in pairs.columns], paths)
    if columns is None:
        return TextCollator(preprocess, pairs.columns, Dataset.from_file(str(pairs.path)))
    return TokenCollator(model.preprocess, columns, limit)
