"""Batches as the collator makes them, from texts in memory."""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from mnrl_job.embedding.chunks import ChunkBudget, chunk_by_length
from mnrl_job.training.collator import Batch


def batch_of(model: SentenceTransformer, columns: list[list[str]], rows_at_once: int, labels: torch.Tensor) -> Batch:
    """What the collator makes of these rows; an empty text stands for no negative.

    Args:
        model: whose input it is.
        columns: texts of each column.
        rows_at_once: texts of a chunk.
        labels: number of each row and the group of the text in each column, shape (rows, 1 + columns).
    """
    there = [torch.tensor([bool(text) for text in column]) for column in columns]
    columns = [[text for text in column if text] for column in columns]
    negatives = [labels[kept][:, [0, 1, at]] for at, kept in enumerate(there[2:], 3)]
    texts = [text for column in columns for text in column]
    lengths = model.preprocess(texts)["attention_mask"].sum(dim=1).numpy()
    chunks = [chunk.rows for chunk in chunk_by_length(lengths, ChunkBudget(10**6, rows_at_once, 1), lengths.max())]
    padded = [model.preprocess([texts[row] for row in chunk]) for chunk in chunks]
    return {
        "chunks": padded,
        "order": torch.from_numpy(np.concatenate(chunks).argsort()),
        "negatives": torch.cat([labels[:0, :3], *negatives]),
        "tokens": int(lengths.sum()),
        "padded_tokens": sum(chunk["input_ids"].numel() for chunk in padded),
    }


def guide_of(batch: Batch, labels: torch.Tensor) -> torch.Tensor:
    """What some guide makes of the texts of a batch: each group points in a direction of its own."""
    directions = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = torch.cat([labels[:, 1], labels[:, 2], batch["negatives"][:, 2]])
    return torch.nn.functional.normalize(directions[groups])
