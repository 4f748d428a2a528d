"""The highest-scoring documents of queries, found in tiles of the documents."""

import torch


class TopDocuments:
    """The documents that score highest so far: `scores` and `positions`, best first, shape (queries, depth).

    A query that was compared with fewer documents has the score -inf in the rest.
    """

    def __init__(self, queries: int, depth: int, device: torch.device) -> None:
        self.scores = torch.full((queries, depth), -torch.inf, device=device)
        self.positions = torch.zeros((queries, depth), dtype=torch.int64, device=device)

    def update(self, queries: slice | torch.Tensor, start: int, scores: torch.Tensor) -> None:
        """Compare `queries`, each given once, with the documents from `start` on; shape (queries, documents)."""
        depth = self.scores.shape[1]
        best = scores.topk(min(depth, scores.shape[1]), dim=1)
        merged = torch.cat([best.values, self.scores[queries]], dim=1)
        positions = torch.cat([best.indices + start, self.positions[queries]], dim=1)
        if start == 0:  # the first tile: nothing to merge with
            merged, positions = merged[:, :depth], positions[:, :depth]
        else:
            merged, order = merged.topk(depth, dim=1)
            positions = positions.gather(1, order)
        self.scores[queries], self.positions[queries] = merged, positions
