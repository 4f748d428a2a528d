"""The rows of a batch as model input: looked up, cut into chunks and padded before the device asks for them."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from torch.utils.data import get_worker_info

from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged, no_values
from mnrl_job.data.tables import read_table, take, texts_of
from mnrl_job.embedding.chunks import ChunkBudget, chunk_by_length
from mnrl_job.embedding.packing import Packed, pack
from mnrl_job.embedding.prompts import find_prompt, kinds_of, token_file
from mnrl_job.embedding.tokens import PADDED, InputFormat, Preprocess, Tokens, read_or_tokenize
from mnrl_job.training.guide import Guide
from mnrl_job.training.row_texts import Asked, RowTexts

# A rank's share of a batch. The texts stand in `chunks`; of their embeddings, one after another, `order` picks those of
# all anchors, then of all positives, then of all negatives. `label` has the number of each row and the groups of its
# anchor and positive, `negatives` the number of each negative's row, the group of that row's anchor and its own.
# `tokens` and `padded_tokens` are counts. With a guide, `guide` has what it makes of the texts, of shape
# (texts, dimension).
Batch = dict[str, Any]


class TokenCollator(SentenceTransformerDataCollator):
    """Reads texts that were tokenised before, and cuts those of all columns together.

    Apart are only columns that the model must be told other things about: where their prompts are of different length,
    and it may have to leave them out of the mean.
    """

    def __init__(self, preprocess: Preprocess, columns: Sequence[Tokens], limit: ChunkBudget, chosen: RowTexts) -> None:
        super().__init__(preprocess)
        self.columns = columns
        self.limit = limit
        self.chosen = chosen
        self.guide: Guide | None = None
        self.longest = max(int(column.lengths.max()) for column in columns)
        self.forms: list[tuple[InputFormat, list[int]]] = []
        for number, column in enumerate(columns):
            alike = next((numbers for form, numbers in self.forms if form == column.form), None)
            if alike is None:
                self.forms.append((column.form, [number]))
            else:
                alike.append(number)

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        label = np.array([row["label"] for row in rows])
        asked = self.chosen.asked(label[:, 0])
        texts = [self.columns[column][number] for column, numbers in asked for number in numbers.tolist()]
        column_of = np.repeat([column for column, _ in asked], [len(numbers) for _, numbers in asked])
        lengths = np.array([len(text) for text in texts])
        padded, order = [], []
        for form, columns in self.forms:
            places = np.flatnonzero(np.isin(column_of, columns))
            for chunk in chunk_by_length(lengths[places], self.limit, self.longest):
                at = places[chunk.rows]
                padded.append(form.features([texts[place] for place in at.tolist()], chunk.width))
                order.append(at)
        return Batch(
            chunks=padded,
            order=torch.from_numpy(np.concatenate(order).argsort()),
            **labelled(label, self.chosen),
            tokens=sum(map(len, texts)),
            padded_tokens=sum(chunk["input_ids"].numel() for chunk in padded),
            **guided(self.guide, asked),
        )

    def row_lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of all texts of some rows."""
        return self.chosen.totals(rows, [column.lengths for column in self.columns])


class TextCollator(SentenceTransformerDataCollator):
    """For models whose input is not made of token ids: the library's preprocessing, a chunk for each column."""

    def __init__(self, preprocess: Sequence[Preprocess], columns: Sequence[pa.ChunkedArray], chosen: RowTexts) -> None:
        super().__init__(preprocess[0])
        self.columns = list(zip(preprocess, columns, strict=True))
        self.chosen = chosen
        self.guide: Guide | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        if get_worker_info():  # a tokenizer's threads are not copied by a fork, and would be waited for
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        label = np.array([row["label"] for row in rows])
        asked = self.chosen.asked(label[:, 0])
        chunks = []
        for column, numbers in asked:
            preprocess, texts = self.columns[column]
            if len(numbers):
                features = preprocess(take(texts, numbers).to_pylist())
                if "attention_mask" in features:
                    features |= {PADDED: not bool(features["attention_mask"].all())}
                chunks.append(features)
        return Batch(
            chunks=chunks,
            order=torch.arange(sum(len(numbers) for _, numbers in asked)),
            **labelled(label, self.chosen),
            tokens=0,
            padded_tokens=0,
            **guided(self.guide, asked),
        )


class PackingCollator(SentenceTransformerDataCollator):
    """Packs what another collator makes, so that a batch goes to the device in one copy."""

    def __init__(self, collate: TokenCollator | TextCollator) -> None:
        super().__init__(collate.preprocess_fn)
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> Packed:
        return pack(self.collate(rows))


def labelled(label: NDArray[np.int64], chosen: RowTexts) -> dict[str, torch.Tensor]:
    """The labels of some rows and of their negatives."""
    return {"label": torch.from_numpy(label), "negatives": torch.from_numpy(chosen.labels(label))}


def guided(guide: Guide | None, asked: Asked) -> dict[str, torch.Tensor]:
    """What a guide, if there is one, makes of these texts."""
    return {"guide": guide.of(asked)} if guide else {}


def collator(
    model: SentenceTransformer, pairs: Pairs, limit: ChunkBudget, folder: Path, given: Ragged | None = None
) -> TokenCollator | TextCollator:
    """Tokenise all texts with their prompts, once for all workers of this machine, where the model reads token ids.

    `given` are the groups of the negatives that rows were given, if there are any.
    """
    table = read_table(pairs.path)
    prompts = [find_prompt(model, kind) for kind in kinds_of(len(pairs.columns))]
    preprocess = [partial(model.preprocess, prompt=prompt) for prompt in prompts]
    paths = [token_file(folder / f"{name}.arrow", prompt) for name, prompt in zip(pairs.columns, prompts, strict=True)]
    texts = [texts_of(table, name) for name in pairs.columns]
    chosen = RowTexts(given or no_values(pairs.rows))
    columns = read_or_tokenize(preprocess, model.tokenizer, texts, paths)
    if columns is None:
        return TextCollator(preprocess, texts, chosen)
    return TokenCollator(model.preprocess, columns, limit, chosen)
