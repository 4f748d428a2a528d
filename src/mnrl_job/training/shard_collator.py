"""Rows of a batch as model input, from prepared tokens."""

from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from mnrl_job.data.tables import read_table
from mnrl_job.embedding.chunks import ChunkBudget
from mnrl_job.embedding.prompts import find_prompt, kinds_of
from mnrl_job.embedding.rank_slice import own_slice
from mnrl_job.embedding.tokens import PROBES, detect_input_format
from mnrl_job.training.collator import ChunkedCollator, ColumnTokens
from mnrl_job.training.shard_files import ShardFiles


class ShardCollator(ChunkedCollator):
    """Reads this rank's slice of a step."""

    def __init__(self, model: SentenceTransformer, files: ShardFiles, batch_size: int, budget: ChunkBudget) -> None:
        preprocess = [partial(model.preprocess, prompt=find_prompt(model, kind)) for kind in kinds_of(3)]
        formats = [detect_input_format(with_prompt, model.tokenizer, PROBES) for with_prompt in preprocess]
        sample = [np.array(ids, dtype=np.int32) for ids in files.shards.sample]
        super().__init__(model.preprocess, [found for found in formats if found], budget, sample)
        self.files = files
        self.batch_size = batch_size

    def look_up(self, rows: list[dict[str, Any]]) -> tuple[ColumnTokens, dict[str, torch.Tensor]]:
        index, offset = divmod(rows[0]["step"], self.files.shards.steps_per_shard)
        own = own_slice(self.batch_size)
        part = open_shard(self.files.path(index)).slice(offset * self.batch_size + own.start, own.stop - own.start)
        texts = [part["anchor"], part["positive"], part["negatives"].flatten()]
        label = np.asarray(part["label"].flatten()).reshape(-1, 3)
        labels = {
            "label": label,
            "negatives": with_lists(label[:, :2], part["negative_groups"]),
            "known_positives": with_lists(label[:, 1:2], part["known_positives"]),
        }
        return list(enumerate(map(lists, texts))), {name: torch.tensor(array) for name, array in labels.items()}


@lru_cache(maxsize=1)
def open_shard(path: Path) -> pa.RecordBatch:
    """The rows of a shard, mapped into memory."""
    return read_table(path).to_batches()[0]


def lists(column: pa.ListArray) -> list[NDArray[np.int32]]:
    values = np.asarray(column.values)
    return [values[start:stop] for start, stop in pairwise(column.offsets.to_pylist())]


def with_lists(labels: NDArray[np.int64], column: pa.ListArray) -> NDArray[np.int64]:
    """The labels of each row, shape (rows, columns), repeated for each number in its list, and that number."""
    repeated = np.repeat(labels, np.diff(np.asarray(column.offsets)), axis=0)
    return np.column_stack([repeated, np.asarray(column.flatten())])
