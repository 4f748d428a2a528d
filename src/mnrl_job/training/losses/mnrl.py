"""MultipleNegativesRankingLoss over the global batch: embedded in chunks, gathered once, compared tile by tile.

Chunks hold texts of similar length (little padding). If the activations of all chunks do not fit into memory together,
those of as many chunks as fit are kept, and the others are recomputed for the backward pass: GradCache (Gao et al.
2021, arXiv 2101.06983) as activation checkpointing of a chunk.
"""

import math
from dataclasses import dataclass, replace

import torch
from accelerate.utils import reduce
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from mnrl_job.embedding.masks import embed
from mnrl_job.embedding.out_of_memory import is_out_of_memory
from mnrl_job.embedding.tokens import Features
from mnrl_job.errors import first_line
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.training.collator import Batch
from mnrl_job.training.distributed import StepVotes, all_gather_ints, all_gather_uneven
from mnrl_job.training.losses.contrastive_loss import EmbeddingPair, LossConfig, contrastive_loss
from mnrl_job.training.losses.embedding_stats import compute_stats
from mnrl_job.training.losses.false_negatives import BatchLabels
from mnrl_job.training.losses.gather import gather_embeddings, gather_labels
from mnrl_job.training.losses.sub_chunks import split_chunk, split_to_count

# Sent instead of the number of negatives by a rank that ran out of memory.
OUT_OF_MEMORY = -1


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals of a training up to some step, over all ranks and attempts.

    Of `negatives`, the other documents of a batch summed over all queries, `masked` did not count.
    """

    tokens: int = 0
    padded_tokens: int = 0
    negatives: int = 0
    masked: int = 0
    seconds: float = 0.0
    seconds_waited: float = 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of this rank's steps so far.

    Attributes:
        tokens: tokens without padding; stays 0 for a model without attention mask.
        padded_tokens: tokens with padding.
        negatives: documents other than the positive, summed over the queries of this rank.
        masked: how many of them were masked.
        batches: row numbers of each global batch, in its order, until `take_steps`.
        losses: mean over this rank's rows, for each of these batches.
    """

    tokens: int
    padded_tokens: int
    negatives: int
    masked: torch.Tensor
    batches: tuple[torch.Tensor, ...] = ()
    losses: tuple[torch.Tensor, ...] = ()


class OutOfMemoryOnSomeRank(torch.OutOfMemoryError):
    """Some rank has not enough device memory for its slice of the batch, and every rank knows."""


class GlobalBatchLoss(nn.Module):
    """The loss over the documents of all ranks, with false negatives masked.

    If the batch holds none, value and gradients are the library's.

    Args:
        model: computes the embeddings.
        config: what is compared with what.
        rank: of this process; its rows come after those of lower ranks.
        matryoshka_dims: the loss is summed over embeddings truncated to these dimensions; empty for full embeddings.

    Attributes:
        activation_token_budget: tokens with padding whose activations are kept; others are recomputed.
        sub_chunks: number of parts each chunk is split into before it is embedded.
        sync_chunk_count: whether all ranks must embed the same number of chunks, since the model is sharded (FSDP).
        counts: counters of this rank.
        collect_stats: whether to compute embedding statistics for the next batch.
        stats: the result of `compute_stats` for the last such batch.
        votes: of the ranks, on what happens at the end of the step.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        config: LossConfig,
        rank: int = 0,
        matryoshka_dims: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.rank = rank
        self.matryoshka_dims = matryoshka_dims
        self.activation_token_budget = math.inf
        self.sub_chunks = 1
        self.sync_chunk_count = False
        self.counts = Counts(0, 0, 0, torch.zeros((), dtype=torch.int64, device=model.device))
        self.collect_stats = False
        self.stats: torch.Tensor | None = None
        self.votes = StepVotes()

    def forward(self, batch: Batch, labels: torch.Tensor) -> torch.Tensor:
        """The loss of this rank's slice of the batch, a scalar: its mean over the ranks is that over all rows.

        Ranks may differ in their number of rows and negatives.

        Args:
            batch: this rank's rows, as returned by a collator.
            labels: row number and groups of anchor and positive of each row, shape (rows, 3).

        Raises:
            OutOfMemoryOnSomeRank: on every rank, so that all can retry.
        """
        chunks = [part for chunk in batch["chunks"] for part in split_chunk(chunk, self.sub_chunks)]
        negatives, known = len(batch["negatives"]), batch.get("known_positives", labels[:0, 1:])
        if self.sync_chunk_count:
            rows, counts, known_counts, chunk_counts = self._exchange_counts(
                len(labels), negatives, len(known), len(chunks)
            )
            embeddings, error = self._embed_chunks(split_to_count(chunks, max(chunk_counts)))
        else:
            embeddings, error = self._embed_chunks(chunks)
            negatives = OUT_OF_MEMORY if embeddings is None else negatives
            rows, counts, known_counts = self._exchange_counts(len(labels), negatives, len(known))
        if embeddings is None or OUT_OF_MEMORY in counts:
            raise OutOfMemoryOnSomeRank(error or "another rank is out of device memory")
        embeddings = embeddings[batch["order"]]
        embeddings = nn.functional.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)))
        queries, documents = gather_embeddings(embeddings, rows, counts)
        known = torch.cat(all_gather_uneven(known, known_counts)) if any(known_counts) else known
        global_labels = BatchLabels(gather_labels(torch.cat([labels, batch["negatives"]]), rows, counts), known)
        local_rows = slice(sum(rows[: self.rank]), sum(rows[: self.rank + 1]))
        guide = gather_embeddings(batch["guide"], rows, counts) if "guide" in batch else None
        loss, masked = self._sum_over_dims((queries, documents), global_labels, local_rows, guide)
        if self.collect_stats:
            self.stats = compute_stats(queries, documents, global_labels)
        self.counts = Counts(
            self.counts.tokens + batch["tokens"],
            self.counts.padded_tokens + batch["padded_tokens"],
            self.counts.negatives + len(labels) * (len(documents) - 1),
            self.counts.masked + masked,
            (*self.counts.batches, global_labels.documents[: len(queries), 0]),
            (*self.counts.losses, loss.detach()),
        )
        # The weight is exactly 1 if all ranks have the same number of rows.
        return loss * (len(labels) * len(rows) / len(queries))

    def totals(self) -> Totals:
        """Tokens, padded tokens, negatives and masked ones of all ranks. Collective."""
        counts = self.counts
        local = (counts.tokens, counts.padded_tokens, counts.negatives, int(counts.masked))
        return Totals(*reduce(torch.tensor(local, device=counts.masked.device), "sum").tolist())

    def take_steps(self) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """The rows of the global batches since the last call, and this rank's losses."""
        batches, losses = self.counts.batches, self.counts.losses
        self.counts = replace(self.counts, batches=(), losses=())
        return batches, losses

    def reduce_memory(self, chunks: list[Features]) -> bool:
        """Need less memory from now on: keep half the activations, then none, then split chunks further.

        Args:
            chunks: of the batch that did not fit.

        Returns:
            Whether memory could be reduced any further.
        """
        tokens = [int(chunk["input_ids"].numel()) for chunk in chunks]
        if min(self.activation_token_budget, sum(tokens)) >= tokens[0]:
            half = min(self.activation_token_budget, sum(tokens)) // 2
            self.activation_token_budget = half if half >= tokens[0] else 0
            return True
        self.activation_token_budget = 0
        if self.sub_chunks >= max(len(chunk["input_ids"]) for chunk in chunks):
            return False
        self.sub_chunks *= 2
        return True

    def _exchange_counts(self, *counts: int) -> list[list[int]]:
        """The only message between hosts in a step: each of these counts by rank."""
        by_rank = all_gather_ints([*counts, *self.votes.local()])
        self.votes.update([rank[len(counts) :] for rank in by_rank])
        return [[rank[index] for rank in by_rank] for index in range(len(counts))]

    def _sum_over_dims(
        self, embeddings: EmbeddingPair, labels: BatchLabels, local_rows: slice, guide: EmbeddingPair | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of the local rows and the number of masked documents, see `contrastive_loss`.

        With Matryoshka dimensions it is the sum of the losses of truncated embeddings (Kusupati et al. 2022, arXiv
        2205.13147, equation 1, all weights 1). The guide's embeddings are never truncated.
        """
        losses, masked = [], labels.documents.new_zeros(())
        for dimension in self.matryoshka_dims or (embeddings[0].shape[1],):
            queries, documents = embeddings
            if self.matryoshka_dims:
                queries, documents = (nn.functional.normalize(side[:, :dimension]) for side in embeddings)
            loss, masked = contrastive_loss(queries, documents, labels, local_rows, self.config, guide)
            losses.append(loss)
        return torch.stack(losses).sum(), masked

    def _embed_chunks(self, chunks: list[Features]) -> tuple[torch.Tensor | None, str]:
        """The embeddings of all chunks, concatenated; or the device's message if it ran out of memory."""
        budget = self.activation_token_budget
        embeddings: list[torch.Tensor] = []
        try:
            for chunk in chunks:
                if math.isfinite(budget):
                    budget -= chunk["input_ids"].numel()
                keep = budget >= 0
                embeddings.append(self._embed(chunk) if keep else checkpoint(self._embed, chunk, use_reentrant=False))
            return torch.cat(embeddings), ""
        except RuntimeError as error:
            # With a sharded model the other ranks wait inside a collective for this one, and cannot be notified.
            if self.sync_chunk_count or not is_out_of_memory(error):
                raise
            return None, first_line(error)

    def _embed(self, features: Features) -> torch.Tensor:
        heartbeat()
        return embed(self.model, features)
