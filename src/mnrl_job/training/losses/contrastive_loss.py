"""The contrastive loss over a global batch, worked off in tiles: the matrix of all scores never stands in memory.

A tile holds some of this rank's rows against everything they are compared with, so that each row's softmax is complete
within its tile. The gradients are therefore added up at once, while the scores are at hand: nothing is computed twice,
and all that is kept for the backward pass is as large as the embeddings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from mnrl_job.config.setting_types import Hardness
from mnrl_job.training.losses.false_negatives import (
    _of_own_row,
    false_documents_of_positives,
    false_negatives,
    false_positives_of_positives,
    false_queries_of_positives,
    false_queries_of_queries,
)

Objective = Literal["mnrl", "symmetric", "gte", "guided"]

TILE_BYTES = 2**25


def contrastive_loss(
    queries: torch.Tensor,
    documents: torch.Tensor,
    labels: torch.Tensor,
    own: slice,
    scale: float,
    objective: Objective,
    hardness: Hardness | None = None,
    guides: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of this rank's rows: the mean of log-partition minus score of the own positive.

    Without false negatives this is what the library's MultipleNegativesRankingLoss computes, for "mnrl" by default (van
    den Oord et al. 2018, arXiv 1807.03748, equation 4), for "symmetric" with one softmax from the queries and one from
    the documents, averaged (Günther et al. 2023, arXiv 2310.19923), for "gte" with one softmax over the four directions
    (Li et al. 2023, arXiv 2308.03281, the improved contrastive loss), and what its GISTEmbedLoss computes for "guided",
    with one softmax over documents, from queries to queries and from positives to positives, each without those that a
    guide finds more similar than the query and its positive (Solatorio 2024, arXiv 2402.16829, section 3).

    With hardness, alpha times the cosine is added to the score of a query and a negative document, as a constant: no
    gradient flows through it (Lan et al. 2025, arXiv 2503.04812, equation 5, there of negatives of the other rows;
    Schechter Vera et al. 2025, arXiv 2509.20354, of the row's own hard negatives).

    Args:
        queries: anchors of the global batch, of unit length, shape (rows, dimension).
        documents: all positives in the order of the rows, then all negatives in any order, of unit length, too;
            shape (documents, dimension).
        labels: of each document the number of its row, the group of that row's anchor, its own group;
            shape (documents, 3).
        own: the rows whose loss is wanted. Rows of other ranks get their gradient from these, too.
        scale: multiplies the cosine similarities.
        objective: what to compare with what.
        hardness: which negatives weigh more, and alpha.
        guides: what a guide makes of the queries and documents, of unit length, rows as theirs, for "guided".

    Returns:
        The loss, a scalar that can be differentiated once, and the number of documents that did not count as negatives,
        summed over the own queries.
    """
    with torch.autocast(queries.device.type, enabled=False):
        loss, masked = _Contrast.apply(  # type: ignore[no-untyped-call]
            queries, documents, labels, own, scale, _OBJECTIVES[objective], hardness, guides
        )
    return loss, masked


_QUERIES, _DOCUMENTS, _POSITIVES = 0, 1, 2


class _Direction(NamedTuple):
    """What is compared with what. The positives lead the documents: row i of either side belongs to row i.

    `mask` is given the labels of some rows, of all rows and of all negatives.
    """

    left: int
    right: int
    mask: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


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


@dataclass(frozen=True)
class _Batch:
    """A global batch, and the sums that grow from tile to tile.

    Attributes:
        sides: queries, documents and the positives among these.
        labels: of the documents.
        scale: multiplies the cosine similarities.
        hardness: which negatives weigh more.
        share: of one row's softmax in the loss.
        masked: entries taken out from the queries to the documents so far.
        gradients: of the sides; empty where nobody asks for them.
        guides: the sides as a guide sees them; empty where there is none.
    """

    sides: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    scale: float
    hardness: Hardness | None
    share: float
    masked: torch.Tensor
    gradients: tuple[torch.Tensor, ...]
    guides: tuple[torch.Tensor, ...]

    def add(self, partition: _Partition, rows: slice) -> torch.Tensor:
        """Add one softmax of some rows to the sums; its loss, a scalar."""
        tiles = [self._score(direction, rows) for direction in partition]
        # A positive is never masked: the largest score is finite, and a row of nothing else has no loss, exactly.
        positive = tiles[0].diagonal(rows.start).clone()
        largest = torch.stack([tile.amax(dim=1) for tile in tiles]).amax(dim=0)
        for tile in tiles:
            tile.sub_(largest[:, None]).exp_()
        total = torch.stack([tile.sum(dim=1) for tile in tiles]).sum(dim=0)
        if self.gradients:
            tiles[0].diagonal(rows.start).sub_(total)
            factor = (self.scale * self.share / total)[:, None]
            for direction, tile in zip(partition, tiles, strict=True):
                self._descend(direction, rows, tile, factor)
        return (total.log() + (largest - positive)).sum() * self.share

    def _score(self, direction: _Direction, rows: slice) -> torch.Tensor:
        """Scores of some rows, shape (rows, right embeddings); minus infinity takes a false negative out."""
        count = len(self.sides[_QUERIES])
        mask = direction.mask(self.labels[rows], self.labels[:count], self.labels[count:])
        if self.guides:
            mask.logical_or_(self._nearer(direction, rows))
        scores = self.scale * self.sides[direction.left][rows] @ self.sides[direction.right].T
        if direction is _QUERY_TO_DOCUMENT:
            self.masked.add_(mask.sum())
            if self.hardness:
                own = _of_own_row(self.labels[rows], self.labels)
                scores = _hardened(scores, own, rows.start, self.hardness, self.scale)
        return scores.masked_fill_(mask, -torch.inf)

    def _nearer(self, direction: _Direction, rows: slice) -> torch.Tensor:
        """Mark what the guide finds more similar than a row's query and positive, shape (rows, right embeddings)."""
        queries, _, positives = self.guides
        limits = (queries[rows] * positives[rows]).sum(dim=1)
        marked = self.guides[direction.left][rows] @ self.guides[direction.right].T > limits[:, None]
        if direction is _QUERY_TO_DOCUMENT:
            marked.diagonal(rows.start).fill_(False)
        return marked

    def _descend(self, direction: _Direction, rows: slice, tile: torch.Tensor, factor: torch.Tensor) -> None:
        """Add the gradient of a tile, which is the derivative of the loss by the scores up to a factor for each row."""
        left, right = (self.sides[side] for side in direction[:2])
        self.gradients[direction.left][rows] += tile @ right * factor
        self.gradients[direction.right].addmm_(tile.T, left[rows] * factor)


def _with_positives(sides: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Queries, documents, and the positives, which lead the documents, as a view of them; nothing of nothing."""
    return (*sides, sides[1][: len(sides[0])]) if sides else ()


def _hardened(scores: torch.Tensor, own: torch.Tensor, first: int, hardness: Hardness, scale: float) -> torch.Tensor:
    """The scores with alpha times the cosine added for negatives.

    Args:
        scores: of the queries of some rows and all documents, shape (rows, documents).
        own: marks the documents of the queries' own rows, shape (rows, documents).
        first: the first of the rows.
        hardness: alpha, and which negatives.
        scale: what the cosines were multiplied by.
    """
    if hardness.mode == "hard_negatives":
        weighed = own
    else:
        weighed = ~own if hardness.mode == "in_batch_negatives" else torch.ones_like(own)
    weighed.diagonal(first).fill_(False)
    return torch.where(weighed, scores * (1 + hardness.strength / scale), scores)


class _Contrast(torch.autograd.Function):
    """The loss with its gradient, in fp32 or better."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        documents: torch.Tensor,
        labels: torch.Tensor,
        own: slice,
        scale: float,
        partitions: tuple[_Partition, ...],
        hardness: Hardness | None,
        guides: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.dtypes = queries.dtype, documents.dtype
        sides = tuple(side.to(torch.promote_types(side.dtype, torch.float32)) for side in (queries, documents))
        start, stop, _ = own.indices(len(queries))
        share = 1 / (len(partitions) * (stop - start))
        gradients = tuple(map(torch.zeros_like, sides)) if any(ctx.needs_input_grad) else ()
        batch = _Batch(
            _with_positives(sides),
            labels,
            scale,
            hardness,
            share,
            torch.zeros_like(labels[0, 0]),
            _with_positives(gradients),
            _with_positives(guides or ()),
        )
        loss = sides[0].new_zeros(())
        at_once = max(1, TILE_BYTES // (len(documents) * sides[1].element_size()))
        for first in range(start, stop, at_once):
            rows = slice(first, min(first + at_once, stop))
            for partition in partitions:
                loss += batch.add(partition, rows)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(batch.masked)
        return loss, batch.masked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Scaled before it is rounded, or a loss scaler could not save the small gradients of fp16.
        scaled = (gradient * upstream for gradient in ctx.saved_tensors)
        return (*(one.to(dtype) for one, dtype in zip(scaled, ctx.dtypes, strict=True)), *[None] * 6)
