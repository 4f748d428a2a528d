"""Rows of a batch as model input: looked up, chunked and padded before the device needs them."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from torch.utils.data import get_worker_info

from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged, no_values
from mnrl_job.data.tables import read_table, texts_of
from mnrl_job.embedding.chunks import ChunkBudget, chunk_by_length
from mnrl_job.embedding.flat_buffer import FlatBuffer, flatten
from mnrl_job.embedding.prompts import find_prompt, kinds_of
from mnrl_job.embedding.tokens import (
    PADDED,
    PROBED_TEXTS,
    Features,
    InputFormat,
    Preprocess,
    choose_tokenize,
    detect_input_format,
)
from mnrl_job.training.guide import Guide
from mnrl_job.training.row_texts import ColumnTexts, RowTexts
from mnrl_job.training.token_columns import TokenColumn

# More than the tokenizers of most languages need.
BYTES_PER_TOKEN = 8

# A rank's slice of a batch. `chunks` hold the texts; `order` permutes their concatenated embeddings into all anchors,
# then all positives, then all negatives. `label` has the number of each row and the groups of its anchor and positive,
# `negatives` the row number of each negative, the group of that row's anchor and its own.
# `known_positives`, only if an anchor of the data has several, are groups of the rows' anchors and of all their
# positives. `tokens` and `padded_tokens` are counts. With a guide model, `guide` has its embeddings of the texts, shape
# (texts, dimension).
Batch = dict[str, Any]


# Columns, and the token ids of their texts.
ColumnTokens = list[tuple[int, list[NDArray[np.int32]]]]


class ChunkedCollator(SentenceTransformerDataCollator):
    """Chunks the texts of all columns together, given the format of each column and tokens of a sample of the texts.

    Only columns whose model input differs in more than the tokens are chunked apart: if their prompts have different
    lengths, and the model excludes the prompt from mean pooling.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        formats: Sequence[InputFormat],
        budget: ChunkBudget,
        sample: Sequence[NDArray[np.int32]],
    ) -> None:
        super().__init__(preprocess)
        self.budget = budget
        self.extremes = (min(sample, key=len), max(sample, key=len))
        self.longest = len(self.extremes[1])
        self.formats: list[tuple[InputFormat, list[int]]] = []
        for index, input_format in enumerate(formats):
            same_format = next((indices for known, indices in self.formats if known == input_format), None)
            if same_format is None:
                self.formats.append((input_format, [index]))
            else:
                same_format.append(index)

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        stop_tokenizer_threads()
        column_texts, labels = self.look_up(rows)
        texts = [text for _, texts in column_texts for text in texts]
        column_of = np.repeat([column for column, _ in column_texts], [len(texts) for _, texts in column_texts])
        lengths = np.array([len(text) for text in texts])
        chunks, order = [], []
        for input_format, columns in self.formats:
            positions = np.flatnonzero(np.isin(column_of, columns))
            for chunk in chunk_by_length(lengths[positions], self.budget, self.longest):
                members = positions[chunk.rows]
                chunks.append(input_format.features([texts[index] for index in members.tolist()], chunk.width))
                order.append(members)
        return Batch(
            chunks=chunks,
            order=torch.from_numpy(np.concatenate(order).argsort()),
            tokens=sum(map(len, texts)),
            padded_tokens=sum(chunk["input_ids"].numel() for chunk in chunks),
            **labels,
        )

    def look_up(self, rows: list[dict[str, Any]]) -> tuple[ColumnTokens, dict[str, torch.Tensor]]:
        """The tokens of the rows, and their labels."""
        raise NotImplementedError

    def sample_chunks(self) -> list[Features]:
        """Model input of each format, with padding."""
        return [input_format.features([*self.extremes], self.longest) for input_format, _ in self.formats]


class TokenCollator(ChunkedCollator):
    """Tokenizes the texts of a batch."""

    def __init__(
        self, preprocess: Preprocess, columns: Sequence[TokenColumn], budget: ChunkBudget, row_texts: RowTexts
    ) -> None:
        sample = [text for column in columns for text in column.sample.values()]
        super().__init__(preprocess, [column.input_format for column in columns], budget, sample)
        self.columns = columns
        self.row_texts = row_texts
        self.guide: Guide | None = None

    def look_up(self, rows: list[dict[str, Any]]) -> tuple[ColumnTokens, dict[str, torch.Tensor]]:
        label = np.array([row["label"] for row in rows])
        column_texts = self.row_texts.of_rows(label[:, 0])
        labels = row_labels(label, self.row_texts) | _guide_embeddings(self.guide, column_texts)
        return self._tokens(column_texts), labels

    def bytes_of_rows(self) -> NDArray[np.int64]:
        """Bytes of anchor and positive of each row, each at most about those of the longest text that is not cut."""
        most = BYTES_PER_TOKEN * self.longest
        anchor, positive = (pc.binary_length(column.texts).to_numpy() for column in self.columns[:2])
        total: NDArray[np.int64] = np.minimum(anchor, most).astype(np.int64) + np.minimum(positive, most)
        return total

    def count_tokens(self, rows: NDArray[np.int64]) -> int:
        """Tokens of all texts of some rows."""
        return sum(len(text) for _, texts in self._tokens(self.row_texts.of_rows(rows)) for text in texts)

    def _tokens(self, column_texts: ColumnTexts) -> ColumnTokens:
        return [(column, self.columns[column].read(indices)) for column, indices in column_texts]


class TextCollator(SentenceTransformerDataCollator):
    """For models whose input is not token ids: the library's preprocessing, one chunk for each column."""

    def __init__(
        self, preprocess: Sequence[Preprocess], columns: Sequence[pa.ChunkedArray], row_texts: RowTexts
    ) -> None:
        super().__init__(preprocess[0])
        self.columns = list(zip(preprocess, columns, strict=True))
        self.row_texts = row_texts
        self.guide: Guide | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        stop_tokenizer_threads()
        label = np.array([row["label"] for row in rows])
        column_texts = self.row_texts.of_rows(label[:, 0])
        chunks = []
        for column, indices in column_texts:
            preprocess, texts = self.columns[column]
            if len(indices):
                features = preprocess([texts[index].as_py() for index in indices.tolist()])
                if "attention_mask" in features:
                    features |= {PADDED: not bool(features["attention_mask"].all())}
                chunks.append(features)
        return Batch(
            chunks=chunks,
            order=torch.arange(sum(len(indices) for _, indices in column_texts)),
            **row_labels(label, self.row_texts),
            tokens=0,
            padded_tokens=0,
            **_guide_embeddings(self.guide, column_texts),
        )

    def sample_chunks(self) -> list[Features]:
        """Model input of each column, of the first row."""
        chunks: list[Features] = self([{"label": [0, 0, 0]}])["chunks"]
        return chunks


class FlatBufferCollator(SentenceTransformerDataCollator):
    """Flattens the batches of another collator, so that a batch is copied to the device at once."""

    def __init__(self, collate: ChunkedCollator | TextCollator) -> None:
        super().__init__(collate.preprocess_fn)
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> FlatBuffer:
        return flatten(self.collate(rows))


def build_collator(
    model: SentenceTransformer, pairs: Pairs, budget: ChunkBudget, given: Ragged | None = None
) -> TokenCollator | TextCollator:
    """Tokenizes texts with their prompts, into chunks if the model reads token ids.

    Args:
        model: to be trained.
        pairs: the training pairs.
        budget: of a chunk.
        given: groups of the negatives that come with the rows, if there are any.
    """
    table = read_table(pairs.path)
    prompts = [find_prompt(model, kind) for kind in kinds_of(len(pairs.columns))]
    preprocess = [partial(model.preprocess, prompt=prompt) for prompt in prompts]
    texts = [texts_of(table, name) for name in pairs.columns]
    row_texts = RowTexts(given or no_values(pairs.rows))
    columns = []
    for prompt, preprocess_column, column in zip(prompts, preprocess, texts, strict=True):
        probed = column.slice(0, PROBED_TEXTS).to_pylist()
        input_format = detect_input_format(preprocess_column, model.tokenizer, probed)
        if input_format is None:
            return TextCollator(preprocess, texts, row_texts)
        columns.append(TokenColumn(input_format, choose_tokenize(model, preprocess_column, prompt), column))
    return TokenCollator(model.preprocess, columns, budget, row_texts)


def stop_tokenizer_threads() -> None:
    """In a data loader process: a fork does not copy the tokenizer's threads, so it would wait for them forever."""
    if get_worker_info():
        os.environ["TOKENIZERS_PARALLELISM"] = "false"


def row_labels(label: NDArray[np.int64], row_texts: RowTexts) -> dict[str, torch.Tensor]:
    """The labels of some rows and of their negatives, and the known positives of their anchors."""
    labels = {"label": torch.from_numpy(label), "negatives": torch.from_numpy(row_texts.negative_labels(label))}
    if row_texts.positives:
        labels["known_positives"] = torch.from_numpy(row_texts.positives.pairs_of(label[:, 1]))
    return labels


def _guide_embeddings(guide: Guide | None, column_texts: ColumnTexts) -> dict[str, torch.Tensor]:
    return {"guide": guide.embeddings(column_texts)} if guide else {}
