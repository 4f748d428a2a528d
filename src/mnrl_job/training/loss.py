"""The library's loss over the global batch, embedding the rows of a batch in length order.

The loss sees embeddings, not texts, so it does not care in which order they were computed. Sorted by length and cut
into small chunks, a batch carries hardly any padding.
"""

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

ROWS_AT_ONCE_ON_CPU = 16


class GlobalBatchLoss(MultipleNegativesRankingLoss):
    """MultipleNegativesRankingLoss with the same value and gradients, at a fraction of the padding.

    Args:
        model: gives the embeddings.
        scale: multiplies the cosine similarities.
        ranks: processes whose documents are gathered as negatives.
        rows_at_once: rows of a chunk; None embeds each column whole, as suits a GPU.

    Attributes:
        tokens: tokens seen by this rank; stays 0 for a model without attention mask.
        padded_tokens: tokens with padding, which is what the model had to read.
    """

    def __init__(self, model: SentenceTransformer, scale: float, ranks: int, rows_at_once: int | None) -> None:
        super().__init__(model, scale=scale, gather_across_devices=ranks > 1)
        self.rows_at_once = rows_at_once
        self.tokens: int | torch.Tensor = 0
        self.padded_tokens = 0

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """The loss of this rank's share of the batch, a scalar."""
        embeddings = [self._embed(features) for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

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


def _take(features: dict[str, Any], mask: torch.Tensor, rows: torch.Tensor) -> dict[str, Any]:
    """Some rows of a column, without the positions that none of them uses."""
    used = mask[rows].any(dim=0)
    return {
        name: value[rows][:, used] if torch.is_tensor(value) and value.shape == mask.shape else value
        for name, value in features.items()
    }
