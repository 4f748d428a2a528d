"""Tokenizes the rows of a batch plan once, in the order of training, in one process per core."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.batching.planning import Plan
from mnrl_job.batching.token_shards import TokenShards
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged, offsets_of
from mnrl_job.data.tables import read_groups, read_negatives, take, write_table
from mnrl_job.embedding.chunks import ChunkBudget
from mnrl_job.embedding.token_fingerprint import token_fingerprint
from mnrl_job.embedding.tokens import TEXTS_PER_BATCH, skip_offsets
from mnrl_job.embedding.word_tokenizer import TOKENS
from mnrl_job.system.cpus import usable_cpus
from mnrl_job.system.files import sha256_of
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.logs import log
from mnrl_job.training.collator import TokenCollator, build_collator, stop_tokenizer_threads
from mnrl_job.training.known_positives import KnownPositives, find_known_positives
from mnrl_job.training.token_columns import TokenColumn

SHARD_BYTES = 64 << 20

# The SHA-256 of a shard, the tokens of the largest parts of its steps, and the number of its negatives.
ShardFacts = tuple[str, tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class ShardWriter:
    """Writes the shard of an index. Returns its SHA-256, the tokens of its largest step, and its number of negatives.

    The rows have groups, shape (rows, 2), and negatives that were given to them.
    """

    folder: Path
    steps_per_shard: int
    plan: Plan
    columns: Sequence[TokenColumn]
    groups: NDArray[np.int64]
    given: Ragged
    known: KnownPositives | None

    def __call__(self, index: Any) -> ShardFacts:
        stop_tokenizer_threads()
        plan = self.plan[index * self.steps_per_shard : (index + 1) * self.steps_per_shard]
        rows = plan.ravel()
        given = self.given.select(rows)
        anchor, positive = (token_lists(column, rows) for column in self.columns[:2])
        negatives = token_lists(self.columns[-1], self.given.positions(rows))
        table = {
            "label": pa.FixedSizeListArray.from_arrays(np.column_stack([rows, self.groups[rows]]).ravel(), 3),
            "anchor": anchor,
            "positive": positive,
            "negatives": list_array(negatives, given.counts),
            "negative_groups": list_array(given.values, given.counts),
            "known_positives": self._known_positives(plan),
        }
        path = self.folder / TokenShards.name(index)
        partial = path.with_suffix(".partial")
        write_table(partial, pa.table(table))
        partial.replace(path)
        tokens = lengths(anchor) + lengths(positive) + np.diff(np.asarray(negatives.offsets)[given.offsets])
        return sha256_of([path]), largest_slices(tokens.reshape(plan.shape)), len(given.values)

    def _known_positives(self, plan: Plan) -> pa.ListArray:
        """At the first row of each anchor in a batch its known positives there: no others can be masked."""
        counts = np.zeros(plan.shape, dtype=np.int64)
        values = [np.empty(0, dtype=np.int64)]
        for rows, counts_of_step in zip(plan, counts, strict=True):
            if self.known is None:
                break
            anchors, first = np.unique(self.groups[rows, 0], return_index=True)
            pairs = self.known.pairs_of(anchors)
            present = np.concatenate([self.groups[rows].ravel(), self.given.select(rows).values])
            pairs = pairs[np.isin(pairs[:, 1], present)]
            row_of = first[np.searchsorted(anchors, pairs[:, 0])]
            counts_of_step += np.bincount(row_of, minlength=len(rows))
            values.append(pairs[np.argsort(row_of, kind="stable"), 1])
        return list_array(np.concatenate(values), counts.ravel())


def write_shards(model: SentenceTransformer, pairs: Pairs, batch_plan: BatchPlan, folder: Path) -> TokenShards | None:
    """Write the tokens of all rows of the plan; None if the model's input is not token ids."""
    given, groups = read_negatives(batch_plan.labels), read_groups(batch_plan.labels)
    collate, fingerprint = build_collator(model, pairs, ChunkBudget(1, 1, 1)), token_fingerprint(model)
    if not isinstance(collate, TokenCollator) or fingerprint is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    plan = np.load(batch_plan.plan, mmap_mode="r")
    means = (np.mean([*map(len, column.sample.values())]) * len(column.texts) for column in collate.columns)
    bytes_of_step = sum(means) / pairs.rows * plan.shape[1] * TOKENS.value_type.bit_width / 8
    steps = max(1, int(SHARD_BYTES / bytes_of_step))
    skip_offsets(model.tokenizer)
    writer = ShardWriter(folder, steps, plan, collate.columns, groups, given, find_known_positives(groups))
    facts = write_all(writer, math.ceil(len(plan) / steps))
    return TokenShards(
        uri=str(folder),
        steps_per_shard=steps,
        sha256=tuple(sha256 for sha256, _, _ in facts),
        fingerprint=fingerprint,
        sample=tuple(tuple(text.tolist()) for text in collate.extremes),
        largest_slices=tuple(map(max, zip(*(slices for _, slices, _ in facts), strict=True))),
        negatives_per_step=sum(negatives for _, _, negatives in facts) / len(plan),
    )


def write_all(writer: ShardWriter, shards: int) -> list[ShardFacts]:
    processes = cores if (cores := usable_cpus()) > 1 else 0
    indices: Any = range(shards)
    facts = []
    for written in DataLoader(indices, batch_size=None, collate_fn=writer, num_workers=processes):
        facts.append(written)
        heartbeat()
        log(f"tokenized file {len(facts)} of {shards}")
    return facts


def token_lists(column: TokenColumn, rows: NDArray[np.int64]) -> pa.ListArray:
    """The token ids of some texts, truncated as the model does."""
    starts = range(0, len(rows), TEXTS_PER_BATCH)
    parts = (column.tokenize(take(column.texts, rows[start : start + TEXTS_PER_BATCH])) for start in starts)
    return pa.concat_arrays([pa.array([], TOKENS), *parts])


def largest_slices(tokens: NDArray[np.int64]) -> tuple[int, ...]:
    """Tokens of the largest part of any step, divided over 1, 2, 4, … ranks; `tokens` has shape (steps, rows)."""
    rows = tokens.shape[1]
    before = np.pad(tokens.cumsum(axis=1), ((0, 0), (1, 0)))
    bounds = (np.arange(ranks + 1) * rows // ranks for ranks in (2**power for power in range(rows.bit_length())))
    return tuple(int(np.diff(before[:, bound], axis=1).max()) for bound in bounds)


def lengths(column: pa.ListArray) -> NDArray[np.int64]:
    return np.diff(np.asarray(column.offsets)).astype(np.int64)


def list_array(values: Any, counts: NDArray[np.int64]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets_of(counts), pa.int32()), values)
