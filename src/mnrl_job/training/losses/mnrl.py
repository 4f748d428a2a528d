"""MultipleNegativesRankingLoss over the global batch: embedded in chunks, gathered once, compared tile by tile.

Chunks are of like length (little padding). Where their activations do not fit into memory together, as many are kept as
do; the other chunks are embedded again when their gradient is needed: GradCache (Gao et al. 2021, arXiv 2101.06983) as
activation checkpointing of a chunk.
"""

import math
from dataclasses import dataclass, replace

import torch
from accelerate.utils import reduce
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from mnrl_job.config.setting_types import Hardness
from mnrl_job.embedding.masks import embed
from mnrl_job.embedding.out_of_memory import is_out_of_memory
from mnrl_job.embedding.tokens import Features
from mnrl_job.errors import first_line
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.training.collator import Batch
from mnrl_job.training.distributed import StepVotes, gather_uneven, numbers_of_ranks
from mnrl_job.training.losses.contrastive_loss import Objective, contrastive_loss
from mnrl_job.training.losses.embedding_stats import compute_stats

# What a rank without memory enough says instead of how many negatives its rows have.
SHORT = -1


@dataclass(frozen=True, slots=True)
class Totals:
    """What a training has spent up to some step, over all ranks and attempts.

    Of `negatives`, the other documents of a batch, summed over all queries, `masked` did not count.
    """

    tokens: int = 0
    padded_tokens: int = 0
    negatives: int = 0
    masked: int = 0
    seconds: float = 0.0
    seconds_waited: float = 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What the loss has seen so far.

    Attributes:
        tokens: tokens of this rank; stays 0 for a model without attention mask.
        padded_tokens: tokens with padding, which is what the model had to read.
        negatives: documents beside the positive, summed over the queries of this rank.
        masked: those of them that were not counted as negatives.
        consumed: the row numbers of each global batch, in its order, until someone takes them away.
        losses: the mean over this rank's rows, for each of these batches.
    """

    tokens: int
    padded_tokens: int
    negatives: int
    masked: torch.Tensor
    consumed: tuple[torch.Tensor, ...] = ()
    losses: tuple[torch.Tensor, ...] = ()


class OutOfMemoryOnSomeRank(torch.OutOfMemoryError):
    """Some rank has not enough device memory for its share of the batch, and every rank has heard so."""


class GlobalBatchLoss(nn.Module):
    """The loss over the documents of all ranks, without false negatives.

    Where the batch holds none, value and gradients are the library's.

    Args:
        model: gives the embeddings.
        scale: multiplies the cosine similarities.
        objective: what is compared with what.
        rank: of this process; its rows come after those of lower ranks.
        hardness: which negatives weigh more, and how much.
        dimensions: the loss is summed over embeddings cut to so many leading numbers; none for whole ones.

    Attributes:
        kept_tokens: of so many tokens with padding the activations are kept; the others' are computed again.
        pieces: into how many each chunk is cut again before it is embedded.
        in_step: whether ranks must embed as many pieces each, because they hold the model together (FSDP).
        counts: what it has seen.
        watched: whether the embeddings of the next batch are to be looked at, too.
        measured: what they looked like, as `compute_stats` gives it; None before any was looked at.
        wishes: of the ranks, for the end of the step.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        scale: float,
        objective: Objective = "mnrl",
        rank: int = 0,
        hardness: Hardness | None = None,
        dimensions: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.scale = scale
        self.objective = objective
        self.rank = rank
        self.hardness = hardness
        self.dimensions = dimensions
        self.activation_token_budget = math.inf
        self.sub_chunks = 1
        self.sync_chunk_count = False
        self.counts = Counts(0, 0, 0, torch.zeros((), dtype=torch.int64, device=model.device))
        self.watched = False
        self.measured: torch.Tensor | None = None
        self.wishes = StepVotes()

    def forward(self, batch: Batch, labels: torch.Tensor) -> torch.Tensor:
        """The loss of this rank's share of the batch, a scalar: its mean over the ranks is that over all rows.

        Ranks may differ in how many rows they have, and in how many negatives these have.

        Args:
            batch: the texts of this rank's rows, the labels of their negatives, and for "guided" what the guide makes
                of the texts.
            labels: of each row its number and the groups of its anchor and positive, shape (rows, 3).

        Raises:
            OutOfMemoryOnSomeRank: on every rank alike, so that all can try again.
        """
        pieces = [piece for chunk in batch["chunks"] for piece in split(chunk, self.sub_chunks)]
        negatives = len(batch["negatives"])
        if self.sync_chunk_count:
            rows, counts, most = self._tell_ranks(len(labels), negatives, len(pieces))
            texts, short = self._embed_all(cut_to(pieces, most))
        else:
            texts, short = self._embed_all(pieces)
            rows, counts, _ = self._tell_ranks(len(labels), SHORT if texts is None else negatives, len(pieces))
        if texts is None or SHORT in counts:
            raise OutOfMemoryOnSomeRank(short or "another rank is out of device memory")
        texts = nn.functional.normalize(texts[batch["order"]].to(torch.promote_types(texts.dtype, torch.float32)))
        queries, documents = gather_sides(texts, rows, counts)
        everywhere = gather_labels(torch.cat([labels, batch["negatives"]]), rows, counts)
        first = sum(rows[: self.rank])
        own = slice(first, first + len(labels))
        guides = gather_sides(batch["guide"], rows, counts) if "guide" in batch else None
        loss, masked = self._compare((queries, documents), everywhere, own, guides)
        if self.watched:
            self.measured = compute_stats(queries, documents, everywhere)
        self.counts = Counts(
            self.counts.tokens + batch["tokens"],
            self.counts.padded_tokens + batch["padded_tokens"],
            self.counts.negatives + len(labels) * (len(documents) - 1),
            self.counts.masked + masked,
            (*self.counts.consumed, everywhere[: len(queries), 0]),
            (*self.counts.losses, loss.detach()),
        )
        # Exactly 1 where shares are equal.
        return loss * (len(labels) * len(rows) / len(queries))

    def totals(self) -> Totals:
        """Tokens, tokens with padding, negatives and masked ones of all ranks; every rank must ask."""
        counts = self.counts
        own = (counts.tokens, counts.padded_tokens, counts.negatives, int(counts.masked))
        return Totals(*reduce(torch.tensor(own, device=counts.masked.device), "sum").tolist())

    def take_consumed(self) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """The rows of the global batches since this was asked last, and this rank's losses."""
        consumed, losses = self.counts.consumed, self.counts.losses
        self.counts = replace(self.counts, consumed=(), losses=())
        return consumed, losses

    def reduce_memory(self, chunks: list[Features]) -> bool:
        """From now on need less memory: keep half the activations, then none, then cut chunks in ever smaller pieces.

        Args:
            chunks: of the batch that did not fit.

        Returns:
            Whether there was anything left to spare.
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

    def _tell_ranks(self, rows: int, negatives: int, pieces: int) -> tuple[list[int], list[int], int]:
        """The one message between hosts in a step: rows and negatives of each rank, and the most pieces of any."""
        ranks = numbers_of_ranks([rows, negatives, pieces, *self.wishes.own()])
        self.wishes.hear([wishes for _, _, _, *wishes in ranks])
        return [own for own, *_ in ranks], [own for _, own, *_ in ranks], max(most for _, _, most, *_ in ranks)

    def _compare(
        self,
        sides: tuple[torch.Tensor, torch.Tensor],
        labels: torch.Tensor,
        own: slice,
        guides: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of the own rows and the number of masked documents, as `contrastive_loss` gives them.

        Where embeddings are to be of use when cut, it is the sum of the losses of those that are cut (Kusupati et al.
        2022, arXiv 2205.13147, equation 1, all weights 1). A guide sees whole texts whatever is cut.
        """
        losses, masked = [], labels.new_zeros(())
        for dimension in self.dimensions or (sides[0].shape[1],):
            queries, documents = sides
            if self.dimensions:
                queries, documents = (nn.functional.normalize(side[:, :dimension]) for side in sides)
            loss, masked = contrastive_loss(
                queries, documents, labels, own, self.scale, self.objective, self.hardness, guides
            )
            losses.append(loss)
        return torch.stack(losses).sum(), masked

    def _embed_all(self, pieces: list[Features]) -> tuple[torch.Tensor | None, str]:
        """The embeddings of all pieces, one after another; or what the device says where its memory is too small."""
        room = self.activation_token_budget
        embeddings: list[torch.Tensor] = []
        try:
            for piece in pieces:
                if math.isfinite(room):
                    room -= piece["input_ids"].numel()
                kept = room >= 0
                embeddings.append(self._embed(piece) if kept else checkpoint(self._embed, piece, use_reentrant=False))
            return torch.cat(embeddings), ""
        except RuntimeError as error:
            # Where models are shared out, the others wait for this rank's share of a layer, and cannot be told.
            if self.sync_chunk_count or not is_out_of_memory(error):
                raise
            return None, first_line(error)

    def _embed(self, features: Features) -> torch.Tensor:
        """Embeddings of one piece, shape (texts, dimension)."""
        heartbeat()
        return embed(self.model, features)


def gather_sides(texts: torch.Tensor, rows: list[int], negatives: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The queries of all ranks, and their documents: all positives, then all negatives.

    Args:
        texts: of this rank's rows, anchors before positives before negatives, shape (texts, dimension).
        rows: how many each rank has.
        negatives: how many each rank's rows have.
    """
    ranks = gather_uneven(texts, [2 * count + n for count, n in zip(rows, negatives, strict=True)])
    sides = [one.tensor_split((count, 2 * count)) for one, count in zip(ranks, rows, strict=True)]
    anchors, positives, others = zip(*sides, strict=True)
    return torch.cat(anchors), torch.cat([*positives, *others])


def gather_labels(labels: torch.Tensor, rows: list[int], negatives: list[int]) -> torch.Tensor:
    """The labels of all ranks' documents: of all positives, then of all negatives, shape (documents, 3).

    Args:
        labels: of this rank's rows, then of their negatives.
        rows: how many each rank has.
        negatives: how many each rank's rows have.
    """
    ranks = gather_uneven(labels, [count + n for count, n in zip(rows, negatives, strict=True)])
    sides = [one.tensor_split((count,)) for one, count in zip(ranks, rows, strict=True)]
    positives, others = zip(*sides, strict=True)
    return torch.cat([*positives, *others])


def split(features: Features, pieces: int) -> list[Features]:
    """Cut a chunk into as many parts of nearly equal numbers of texts, at most one for each text."""
    if pieces == 1:
        return [features]
    texts = len(features["input_ids"])
    parts: list[Features] = []
    for rows in torch.arange(texts).tensor_split(min(pieces, texts)):
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        parts.append({name: value[some] if torch.is_tensor(value) else value for name, value in features.items()})
    return parts


def cut_to(pieces: list[Features], count: int) -> list[Features]:
    """Halve the largest pieces until there are so many; their order stays.

    Where there are no texts enough, since other ranks' rows have more negatives, the last one is embedded again: nobody
    looks at what comes after the texts asked for.
    """
    pieces = list(pieces)
    while len(pieces) < count:
        largest = max(range(len(pieces)), key=lambda at: len(pieces[at]["input_ids"]))
        halves = split(pieces[largest], 2)
        if len(halves) == 1:
            return pieces + pieces[-1:] * (count - len(pieces))
        pieces[largest : largest + 1] = halves
    return pieces
