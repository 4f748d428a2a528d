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
        tokens: tokens seen by this rank.
        padded_tokens: tokens with padding, which is what the model had to read.
    """

    def __init__(self, model: SentenceTransformer, scale: float, ranks: int, rows_at_once: int | None) -> None:
        super().__init__(model, scale=scale, gather_across_devices=ranks > 1)
        self.rows_at_once = rows_at_once
        self.tokens = 0
        self.padded_tokens = 0

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """The loss of this rank's share of the batch, a scalar."""
        embeddings = [self._embed(features) for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def _embed(self, features: dict[str, Any]) -> torch.Tensor:
        """Embeddings of one column, shape (rows, dimension), in the order of the rows."""
        mask = features["attention_mask"]
        order = mask.sum(dim=1).argsort(descending=True, stable=True)
        chunks = [self._embed_rows(features, rows) for rows in order.split(self.rows_at_once or len(order))]
        return torch.cat(chunks)[order.argsort()]

    def _embed_rows(self, features: dict[str, Any], rows: torch.Tensor) -> torch.Tensor:
        mask = features["attention_mask"]
        used = mask[rows].any(dim=0)
        chunk = {
            name: value[rows][:, used] if torch.is_tensor(value) and value.shape == mask.shape else value
            for name, value in features.items()
        }
        self.tokens += int(chunk["attention_mask"].sum())
        self.padded_tokens += chunk["attention_mask"].numel()
        embeddings: torch.Tensor = self.model(chunk)["sentence_embedding"]
        return embeddings
