"""How the embeddings of a batch lie: does the positive win, by how much, and do unrelated texts keep apart.

Seen at logged steps only, on rows spread evenly over the global batch, whose order is the same on any number of ranks.
Loss and gradients know nothing of it.
"""

import math
from collections import deque
from dataclasses import dataclass

import torch

from mnrl_job.training.losses.contrastive_loss import TILE_BYTES
from mnrl_job.training.losses.false_negatives import false_negatives

SAMPLED_ROWS = 256
WINDOW = 5
ALIKE = 0.95
ALIKE_BEFORE = 0.99
TIMES_CHANCE = 2.0


@dataclass(frozen=True, slots=True)
class EmbeddingStats:
    """What one batch looks like; scores are cosine similarities. None where no query has a negative.

    Attributes:
        in_batch_accuracy: share of the sampled queries whose positive scores higher than every negative of the batch.
        chance: what that share would be by guessing.
        positive_score: mean score of query and positive.
        hardest_negative_score: mean score of query and its best-scoring negative.
        anisotropy: mean score of the positives of different rows, all of the batch; near 1 all texts look the same.
    """

    in_batch_accuracy: float | None
    chance: float | None
    positive_score: float | None
    hardest_negative_score: float | None
    anisotropy: float | None


def compute_stats(queries: torch.Tensor, documents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The numbers of `EmbeddingStats` in order, on the device, so that nobody waits for it; NaN where there is none.

    Args:
        queries: anchors of the global batch, of unit length, shape (rows, dimension).
        documents: all positives, then all negatives; shape (documents, dimension).
        labels: of the documents, as `contrastive_loss` takes them.
    """
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        rows = len(queries)
        count = min(rows, SAMPLED_ROWS, max(1, TILE_BYTES // (4 * len(documents))))
        sample = torch.arange(count, device=queries.device) * rows // count
        documents = documents.float()
        scores = queries[sample].float() @ documents.T
        positive = scores.gather(1, sample[:, None])[:, 0]
        mask = false_negatives(labels[sample], labels[:rows], labels[rows:])
        scores.masked_fill_(mask, -torch.inf).scatter_(1, sample[:, None], -torch.inf)
        negatives = scores.isfinite().sum(dim=1)
        counts = negatives > 0
        hardest = scores.amax(dim=1)
        of_queries = ((positive > hardest).float(), 1 / (negatives + 1), positive, hardest)
        means = [torch.where(counts, values, torch.nan).nanmean() for values in of_queries]
        total = documents[:rows].sum(dim=0)
        return torch.stack([*means, (total @ total - rows) / (rows * (rows - 1))])


def on_host(measured: torch.Tensor) -> EmbeddingStats:
    """The numbers on the host, which waits for the device here."""
    return EmbeddingStats(*(round(number, 5) if math.isfinite(number) else None for number in measured.tolist()))


class CollapseDetector:
    """Notices when embeddings become useless, over the last 5 logged steps.

    The positive is no longer found: the in-batch accuracy is at most twice that of guessing, after it had been more
    than that in the first 5. Or unrelated documents look alike: their mean cosine similarity is 0.95 or more, and at
    most a fifth is left of its distance to 1 in the first step, whose batch the base model embedded. A model that began
    with 0.99 had nothing to lose.
    """

    def __init__(self) -> None:
        self._first: list[EmbeddingStats] = []
        self._last: deque[EmbeddingStats] = deque(maxlen=WINDOW)

    def update(self, checks: EmbeddingStats) -> str | None:
        """What is wrong after this step, in words; empty if nothing is, None where it is too early to say."""
        if None in (checks.in_batch_accuracy, checks.chance, checks.anisotropy):
            return None
        self._last.append(checks)
        if len(self._first) < WINDOW:
            self._first.append(checks)
        if len(self._last) < WINDOW:
            return None
        accuracy, before = (_mean([one.in_batch_accuracy for one in some]) for some in (self._last, self._first))
        chance = _mean([one.chance for one in self._last])
        if accuracy <= TIMES_CHANCE * chance < before:
            return f"the in-batch accuracy fell from {before:.2f} to {accuracy:.2f}, where guessing gives {chance:.2f}"
        alike, at_first = (_mean([one.anisotropy for one in some]) for some in (self._last, self._first[:1]))
        if alike < _too_alike(at_first):
            return ""
        return f"unrelated documents look alike: their mean cosine similarity rose from {at_first:.2f} to {alike:.2f}"


def _too_alike(at_first: float) -> float:
    """The mean similarity of unrelated documents from which they look alike, where it was `at_first` before."""
    if at_first >= ALIKE_BEFORE:
        return math.inf
    return max(ALIKE, 1 - (1 - at_first) / 5)


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
