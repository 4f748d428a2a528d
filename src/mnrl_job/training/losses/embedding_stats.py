"""Statistics of a batch's embeddings: whether the positive ranks first, by how much, and how similar all texts are.

Computed at logged steps only, on rows spread evenly over the global batch, whose order does not depend on the number of
ranks. Loss and gradients are not affected.
"""

import math
from collections import deque
from dataclasses import dataclass

import torch

from mnrl_job.training.losses.contrastive_loss import TILE_BYTES
from mnrl_job.training.losses.false_negatives import BatchLabels, false_negatives

SAMPLED_ROWS = 256
WINDOW = 5
COLLAPSED_ANISOTROPY = 0.95
COLLAPSED_FROM_THE_START = 0.99
TIMES_CHANCE = 2.0


@dataclass(frozen=True, slots=True)
class EmbeddingStats:
    """Statistics of one batch; scores are cosine similarities. None if no query has a negative.

    Attributes:
        in_batch_accuracy: fraction of the sampled queries whose positive scores above every negative of the batch.
        chance: this fraction with random scores.
        positive_score: mean score of query and positive.
        hardest_negative_score: mean score of query and its best-scoring negative.
        anisotropy: mean score of the positives of different rows of the batch; near 1 all texts look the same.
    """

    in_batch_accuracy: float | None
    chance: float | None
    positive_score: float | None
    hardest_negative_score: float | None
    anisotropy: float | None


def compute_stats(queries: torch.Tensor, documents: torch.Tensor, labels: BatchLabels) -> torch.Tensor:
    """The fields of `EmbeddingStats` in order, on the device, without synchronizing; NaN for None.

    Args:
        queries: anchors of the global batch, of unit length, shape (rows, dimension).
        documents: all positives, then all negatives; shape (documents, dimension).
        labels: as for `contrastive_loss`.
    """
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        rows = len(queries)
        count = min(rows, SAMPLED_ROWS, max(1, TILE_BYTES // (4 * len(documents))))
        sample = torch.arange(count, device=queries.device) * rows // count
        documents = documents.float()
        scores = queries[sample].float() @ documents.T
        positive = scores.gather(1, sample[:, None])[:, 0]
        positives, negatives = labels.documents[:rows], labels.documents[rows:]
        mask = false_negatives(positives[sample], positives, negatives, labels.known_positives)
        scores.masked_fill_(mask, -torch.inf).scatter_(1, sample[:, None], -torch.inf)
        negative_count = scores.isfinite().sum(dim=1)
        has_negatives = negative_count > 0
        hardest = scores.amax(dim=1)
        by_query = ((positive > hardest).float(), 1 / (negative_count + 1), positive, hardest)
        means = [torch.where(has_negatives, values, torch.nan).nanmean() for values in by_query]
        total = documents[:rows].sum(dim=0)
        return torch.stack([*means, (total @ total - rows) / (rows * (rows - 1))])


def to_embedding_stats(stats: torch.Tensor) -> EmbeddingStats:
    """The result of `compute_stats` on the host; synchronizes with the device."""
    return EmbeddingStats(*(round(number, 5) if math.isfinite(number) else None for number in stats.tolist()))


class CollapseDetector:
    """Detects collapsed embeddings over the last 5 logged steps.

    Either the positive is no longer found: the in-batch accuracy is at most twice chance, after it was more than that
    in the first 5. Or unrelated documents look alike: their mean cosine similarity is 0.95 or more, and its distance to
    1 at most a fifth of that in the first step, whose batch the base model embedded. A base model at 0.99 or more
    cannot collapse any further.
    """

    def __init__(self) -> None:
        self._first: list[EmbeddingStats] = []
        self._last: deque[EmbeddingStats] = deque(maxlen=WINDOW)

    def update(self, stats: EmbeddingStats) -> str | None:
        """Describe the collapse after this step; empty if there is none, None if it is too early to say."""
        if None in (stats.in_batch_accuracy, stats.chance, stats.anisotropy):
            return None
        self._last.append(stats)
        if len(self._first) < WINDOW:
            self._first.append(stats)
        if len(self._last) < WINDOW:
            return None
        accuracy, initial = (_mean([step.in_batch_accuracy for step in steps]) for steps in (self._last, self._first))
        chance = _mean([step.chance for step in self._last])
        if accuracy <= TIMES_CHANCE * chance < initial:
            return (
                f"the in-batch accuracy fell from {initial:.2f} to {accuracy:.2f}; random guessing gives {chance:.2f}"
            )
        anisotropy, initial = (_mean([step.anisotropy for step in steps]) for steps in (self._last, self._first[:1]))
        if anisotropy < _collapse_threshold(initial):
            return ""
        return (
            f"unrelated documents look alike: their mean cosine similarity rose from {initial:.2f} to {anisotropy:.2f}"
        )


def _collapse_threshold(initial: float) -> float:
    """The anisotropy from which embeddings have collapsed, given that of the first step."""
    if initial >= COLLAPSED_FROM_THE_START:
        return math.inf
    return max(COLLAPSED_ANISOTROPY, 1 - (1 - initial) / 5)


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
