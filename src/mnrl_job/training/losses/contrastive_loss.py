"""The contrastive loss over a global batch, computed in tiles so that the full score matrix is never in memory.

A tile holds some of this rank's rows against everything they are compared with, so each row's softmax is complete
within its tile. The gradients are accumulated in the forward pass while the scores are available: nothing is
recomputed, and what is saved for the backward pass is as large as the embeddings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from mnrl_job.config.setting_types import Hardness
from mnrl_job.training.losses.false_negatives import (
    BatchLabels,
    false_documents_of_positives,
    false_negatives,
    false_positives_of_positives,
    false_queries_of_positives,
    false_queries_of_queries,
    same_row,
)

Objective = Literal["mnrl", "symmetric", "gte", "guided"]
EmbeddingPair = tuple[torch.Tensor, torch.Tensor]

TILE_BYTES = 2**25


@dataclass(frozen=True, slots=True)
class LossConfig:
    """What the loss compares.

    Attributes:
        scale: multiplies the cosine similarities.
        objective: which embeddings are compared with which.
        hardness: which negatives weigh more, and alpha.
    """

    scale: float
    objective: Objective = "mnrl"
    hardness: Hardness | None = None


def contrastive_loss(
    queries: torch.Tensor,
    documents: torch.Tensor,
    labels: BatchLabels,
    local_rows: slice,
    config: LossConfig,
    guide: EmbeddingPair | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of this rank's rows: the mean of log-partition minus score of the row's positive.

    Without false negatives this is what the library's MultipleNegativesRankingLoss computes, for "mnrl" by default (van
    den Oord et al. 2018, arXiv 1807.03748, equation 4), for "symmetric" with one softmax from the queries and one from
    the documents, averaged (Günther et al. 2023, arXiv 2310.19923), for "gte" with one softmax over the four directions
    (Li et al. 2023, arXiv 2308.03281, the improved contrastive loss), and what its GISTEmbedLoss computes for "guided",
    with one softmax over documents, from queries to queries and from positives to positives, each without those that a
    guide model scores higher than the query and its positive (Solatorio 2024, arXiv 2402.16829, section 3).

    With hardness, alpha times the cosine is added to the score of a query and a negative document, as a constant: no
    gradient flows through it (Lan et al. 2025, arXiv 2503.04812, equation 5, there for negatives of the other rows;
    Schechter Vera et al. 2025, arXiv 2509.20354, for the row's own hard negatives).

    Args:
        queries: anchors of the global batch, of unit length, shape (rows, dimension).
        documents: all positives in the order of the rows, then all negatives in any order, of unit length;
            shape (documents, dimension).
        labels: of the documents, and the known positives of the anchors.
        local_rows: the rows whose loss is computed. Rows of other ranks receive gradients from these.
        config: scale, objective and hardness.
        guide: a guide model's embeddings of queries and documents, of unit length, for "guided".

    Returns:
        The loss, a scalar that can be differentiated once, and the number of documents masked as negatives, summed over
        the local queries.
    """
    with torch.autocast(queries.device.type, enabled=False):
        targets = _Targets(labels, local_rows, config, guide)
        loss, masked = _TiledContrastiveLoss.apply(queries, documents, targets)  # type: ignore[no-untyped-call]
    return loss, masked


_QUERIES, _DOCUMENTS, _POSITIVES = 0, 1, 2


class _Direction(NamedTuple):
    """What is compared with what. The positives come first among the documents: row i of either side is of row i.

    `mask` takes the labels of some rows, of all rows and of all negatives, and the known positives.
    """

    left: int
    right: int
    mask: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


# A softmax over one or more directions. The first compares queries and documents: its diagonal holds the positives.
_Partition = tuple[_Direction, ...]

_QUERY_TO_DOCUMENT = _Direction(_QUERIES, _DOCUMENTS, false_negatives)
_QUERY_TO_QUERY = _Direction(_QUERIES, _QUERIES, false_queries_of_queries)
_DOCUMENT_TO_QUERY = _Direction(_DOCUMENTS, _QUERIES, false_queries_of_positives)
_DOCUMENT_TO_DOCUMENT = _Direction(_DOCUMENTS, _DOCUMENTS, false_documents_of_positives)
_POSITIVE_TO_POSITIVE = _Direction(_POSITIVES, _POSITIVES, false_positives_of_positives)

_OBJECTIVES: dict[Objective, tuple[_Partition, ...]] = {
    "mnrl": ((_QUERY_TO_DOCUMENT,),),
    "symmetric": ((_QUERY_TO_DOCUMENT,), (_DOCUMENT_TO_QUERY,)),
    "gte": ((_QUERY_TO_DOCUMENT, _QUERY_TO_QUERY, _DOCUMENT_TO_QUERY, _DOCUMENT_TO_DOCUMENT),),
    "guided": ((_QUERY_TO_DOCUMENT, _QUERY_TO_QUERY, _POSITIVE_TO_POSITIVE),),
}


class _Targets(NamedTuple):
    """What queries and documents are compared by; none of it has a gradient."""

    labels: BatchLabels
    local_rows: slice
    config: LossConfig
    guide: EmbeddingPair | None


@dataclass(frozen=True)
class _TileAccumulator:
    """Adds up loss terms and gradients tile by tile.

    Attributes:
        embeddings: queries, documents and the positives among these.
        targets: labels, loss config.
        row_weight: weight of one row's softmax in the loss.
        masked: number of entries masked from queries to documents so far.
        gradients: of the embeddings; empty if none is required.
        guide: a guide model's embeddings of the same texts; empty without a guide.
    """

    embeddings: tuple[torch.Tensor, ...]
    targets: _Targets
    row_weight: float
    masked: torch.Tensor
    gradients: tuple[torch.Tensor, ...]
    guide: tuple[torch.Tensor, ...]

    def add(self, partition: _Partition, rows: slice) -> torch.Tensor:
        """Accumulate one softmax of some rows; returns its loss, a scalar."""
        tiles = [self._scores(direction, rows) for direction in partition]
        # A positive is never masked: the maximum is finite, and a row without negatives has a loss of exactly 0.
        positive = tiles[0].diagonal(rows.start).clone()
        maximum = torch.stack([tile.amax(dim=1) for tile in tiles]).amax(dim=0)
        for tile in tiles:
            tile.sub_(maximum[:, None]).exp_()
        total = torch.stack([tile.sum(dim=1) for tile in tiles]).sum(dim=0)
        if self.gradients:
            tiles[0].diagonal(rows.start).sub_(total)
            factor = (self.targets.config.scale * self.row_weight / total)[:, None]
            for direction, tile in zip(partition, tiles, strict=True):
                self._accumulate_gradients(direction, rows, tile, factor)
        return (total.log() + (maximum - positive)).sum() * self.row_weight

    def _scores(self, direction: _Direction, rows: slice) -> torch.Tensor:
        """Scores of some rows, shape (rows, right embeddings); -inf where a false negative is masked."""
        count = len(self.embeddings[_QUERIES])
        labels, config = self.targets.labels.documents, self.targets.config
        known = self.targets.labels.known_positives
        mask = direction.mask(labels[rows], labels[:count], labels[count:], known)
        if self.guide:
            mask.logical_or_(self._guide_mask(direction, rows))
        scores = config.scale * self.embeddings[direction.left][rows] @ self.embeddings[direction.right].T
        if direction is _QUERY_TO_DOCUMENT:
            self.masked.add_(mask.sum())
            if config.hardness:
                local = same_row(labels[rows], labels)
                scores = _add_hardness(scores, local, rows.start, config.hardness, config.scale)
        return scores.masked_fill_(mask, -torch.inf)

    def _guide_mask(self, direction: _Direction, rows: slice) -> torch.Tensor:
        """Mark what the guide scores above a row's query and positive, shape (rows, right embeddings)."""
        queries, _, positives = self.guide
        limits = (queries[rows] * positives[rows]).sum(dim=1)
        mask = self.guide[direction.left][rows] @ self.guide[direction.right].T > limits[:, None]
        if direction is _QUERY_TO_DOCUMENT:
            mask.diagonal(rows.start).fill_(False)
        return mask

    def _accumulate_gradients(
        self, direction: _Direction, rows: slice, tile: torch.Tensor, factor: torch.Tensor
    ) -> None:
        """The tile is the derivative of the loss by the scores, up to a factor for each row."""
        left, right = (self.embeddings[side] for side in direction[:2])
        self.gradients[direction.left][rows] += tile @ right * factor
        self.gradients[direction.right].addmm_(tile.T, left[rows] * factor)


def _with_positives(sides: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Queries, documents, and as a view of these the positives; empty if `sides` is."""
    return (*sides, sides[1][: len(sides[0])]) if sides else ()


def _add_hardness(
    scores: torch.Tensor, local: torch.Tensor, first: int, hardness: Hardness, scale: float
) -> torch.Tensor:
    """Add alpha times the cosine to the scores of negatives.

    Args:
        scores: of the queries of some rows and all documents, shape (rows, documents).
        local: marks the documents of the queries' own rows, shape (rows, documents).
        first: index of the first of the rows.
        hardness: alpha, and which negatives.
        scale: by which the cosines were multiplied.
    """
    if hardness.mode == "hard_negatives":
        weighted = local
    else:
        weighted = ~local if hardness.mode == "in_batch_negatives" else torch.ones_like(local)
    weighted.diagonal(first).fill_(False)
    return torch.where(weighted, scores * (1 + hardness.strength / scale), scores)


class _TiledContrastiveLoss(torch.autograd.Function):
    """Loss and gradients in one pass, in fp32 or better."""

    @staticmethod
    def forward(
        ctx: Any, queries: torch.Tensor, documents: torch.Tensor, targets: _Targets
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.dtypes = queries.dtype, documents.dtype
        sides = tuple(side.to(torch.promote_types(side.dtype, torch.float32)) for side in (queries, documents))
        partitions = _OBJECTIVES[targets.config.objective]
        start, stop, _ = targets.local_rows.indices(len(queries))
        gradients = tuple(map(torch.zeros_like, sides)) if any(ctx.needs_input_grad) else ()
        accumulator = _TileAccumulator(
            embeddings=_with_positives(sides),
            targets=targets,
            row_weight=1 / (len(partitions) * (stop - start)),
            masked=torch.zeros_like(targets.labels.documents[0, 0]),
            gradients=_with_positives(gradients),
            guide=_with_positives(targets.guide or ()),
        )
        loss = sides[0].new_zeros(())
        rows_per_tile = max(1, TILE_BYTES // (len(documents) * sides[1].element_size()))
        for first in range(start, stop, rows_per_tile):
            rows = slice(first, min(first + rows_per_tile, stop))
            for partition in partitions:
                loss += accumulator.add(partition, rows)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(accumulator.masked)
        return loss, accumulator.masked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Scaled before rounding: otherwise a loss scaler could not save the small gradients of fp16.
        scaled = (gradient * upstream for gradient in ctx.saved_tensors)
        return (*(gradient.to(dtype) for gradient, dtype in zip(scaled, ctx.dtypes, strict=True)), None)
