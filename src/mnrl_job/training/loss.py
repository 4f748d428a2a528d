"""The library's loss over the global batch, embedding the rows of a batch in length order and masking false negatives.

The loss sees embeddings, not texts, so it does not care in which order they were computed. Sorted by length and cut
into small chunks, a batch carries hardly any padding.
"""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate.utils import gather
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import cos_sim

from mnrl_job.runtime.tables import NOBODY

ROWS_AT_ONCE_ON_CPU = 16


class GlobalBatchLoss(MultipleNegativesRankingLoss):
    """MultipleNegativesRankingLoss over the documents of all ranks, without false negatives and with little padding.

    Where the batch holds none, value and gradients are the library's.

    Args:
        model: gives the embeddings.
        scale: multiplies the cosine similarities.
        ranks: processes whose documents are gathered as negatives.
        rows_at_once: rows of a chunk; None embeds each column whole, as suits a GPU.

    Attributes:
        tokens: tokens seen by this rank; stays 0 for a model without attention mask.
        padded_tokens: tokens with padding, which is what the model had to read.
        masked: documents that were not counted as negatives, summed over the queries of this rank.
        consumed: the row numbers of each global batch, in its order, until someone takes them away.
    """

    def __init__(self, model: SentenceTransformer, scale: float, ranks: int, rows_at_once: int | None) -> None:
        super().__init__(model, scale=scale, similarity_fct=self._similarity, gather_across_devices=ranks > 1)
        self.rows_at_once = rows_at_once
        self.tokens: int | torch.Tensor = 0
        self.padded_tokens = 0
        self.masked: int | torch.Tensor = 0
        self.consumed: list[torch.Tensor] = []
        self._mask = torch.empty(0, dtype=torch.bool)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """The loss of this rank's share of the batch, a scalar.

        Args:
            sentence_features: the tokenised columns.
            labels: row number and the group of each column's text, shape (rows, 1 + columns).
        """
        everywhere = gather(labels) if self.gather_across_devices else labels
        self.consumed.append(everywhere[:, 0])
        self._mask = false_negatives(labels, everywhere)
        self.masked = self.masked + self._mask.sum()
        embeddings = [self._embed(features) for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def _similarity(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """Cosine similarity; minus infinity takes a false negative out of the softmax."""
        return cos_sim(queries, documents).masked_fill(self._mask, -torch.inf)

    def _embed(self, features: dict[str, Any]) -> torch.Tensor:
        """Embeddings of one column, shape (rows, dimension), in the order of the rows."""
        mask = features.get("attention_mask")
        if mask is None or self.rows_at_once is None:
            return self._forward_model(features)
        order = mask.sum(dim=1).argsort(descending=True, stable=True)
        chunks = [self._forward_model(_take(features, mask, rows)) for rows in order.split(self.rows_at_once)]
        return torch.cat(chunks)[order.argsort()]

    def _forward_model(self, features: dict[str, Any]) -> torch.Tensor:
        mask = features.get("attention_mask")
        if mask is not None:
            # Kept on the device: reading the number here would make the host wait for it in every step.
            self.tokens = self.tokens + mask.sum()
            self.padded_tokens += mask.numel()
        embeddings: torch.Tensor = self.model(features)["sentence_embedding"]
        return embeddings


def false_negatives(own: torch.Tensor, everywhere: torch.Tensor) -> torch.Tensor:
    """Mark, for each query of this rank, the documents of the global batch that must not count as its negatives.

    These are documents of the group of its positive or of the query itself, positives of other rows with the same
    anchor, and documents that are nobody's negative. A query's own positive is never marked, nor are negatives that
    were given for its anchor: they may be worded nearly as its positive, on purpose.

    Args:
        own: labels of this rank's rows, shape (rows, 1 + columns).
        everywhere: labels of the global batch, shape (all rows, 1 + columns).

    Returns:
        Shape (rows, all rows * (columns - 1)): all positives, then all first negatives, and so on.
    """
    row, anchor, positive = own[:, :3].T[:, :, None]
    same_anchor = everywhere[:, 1] == anchor
    marked: list[torch.Tensor] = []
    for column in everywhere[:, 2:].T:
        same_group = (column == positive) | (column == anchor)
        if not marked:
            marked.append((same_group | same_anchor) & (everywhere[:, 0] != row))
        else:
            marked.append(same_group & ~same_anchor | (column == NOBODY))
    return torch.cat(marked, dim=1)


def _take(features: dict[str, Any], mask: torch.Tensor, rows: torch.Tensor) -> dict[str, Any]:
    """Some rows of a column, without the positions that none of them uses."""
    used = mask[rows].any(dim=0)
    return {
        name: value[rows][:, used] if torch.is_tensor(value) and value.shape == mask.shape else value
        for name, value in features.items()
    }
