"""Embeddings and labels of all ranks, ordered as the loss expects: all positives before all negatives."""

import torch

from mnrl_job.training.distributed import all_gather_uneven


def gather_embeddings(
    embeddings: torch.Tensor, rows: list[int], negatives: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The queries of all ranks, and their documents: all positives, then all negatives.

    Args:
        embeddings: of this rank's anchors, then positives, then negatives, shape (texts, dimension).
        rows: number of rows of each rank.
        negatives: number of negatives of each rank.
    """
    by_rank = all_gather_uneven(embeddings, [2 * count + n for count, n in zip(rows, negatives, strict=True)])
    split = [rank.tensor_split((count, 2 * count)) for rank, count in zip(by_rank, rows, strict=True)]
    anchors, positives, hard_negatives = zip(*split, strict=True)
    return torch.cat(anchors), torch.cat([*positives, *hard_negatives])


def gather_labels(labels: torch.Tensor, rows: list[int], negatives: list[int]) -> torch.Tensor:
    """The labels of all ranks' documents: all positives, then all negatives, shape (documents, 3).

    Args:
        labels: of this rank's rows, then of their negatives.
        rows: number of rows of each rank.
        negatives: number of negatives of each rank.
    """
    by_rank = all_gather_uneven(labels, [count + n for count, n in zip(rows, negatives, strict=True)])
    split = [rank.tensor_split((count,)) for rank, count in zip(by_rank, rows, strict=True)]
    positives, hard_negatives = zip(*split, strict=True)
    return torch.cat([*positives, *hard_negatives])
