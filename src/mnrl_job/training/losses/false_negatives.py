"""Which documents, and which queries, must not count as negatives in a batch."""

import torch

from mnrl_job.data.tables import NO_GROUP


def false_negatives(own: torch.Tensor, rows: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Mark, for each query of some rows, the documents of the global batch that must not count as its negatives.

    These are documents of the group of its positive or of the query itself, positives of other rows with the same
    anchor, and documents that are nobody's negative. A query's own positive is never marked, nor are negatives that
    were given for its anchor: they may be worded nearly as its positive, on purpose.

    Args:
        own: labels of the rows' positives, shape (rows, 3).
        rows: those of all positives of the global batch, shape (all rows, 3).
        negatives: those of its negatives, shape (negatives, 3).

    Returns:
        Shape (rows, all rows + negatives).
    """
    return torch.cat([_false_positives(own, rows), _unfit_negatives(own, negatives)], dim=1)


def _false_positives(own: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Of the positives, those of other rows that must not count, shape (rows, all rows)."""
    marked: torch.Tensor = (_same_group(own, rows) | (rows[:, 1] == own[:, 1:2])) & (rows[:, 0] != own[:, :1])
    return marked


def _unfit_negatives(own: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Of the negatives, those given for other anchors that must not count, shape (rows, negatives)."""
    marked: torch.Tensor = _same_group(own, negatives) & (negatives[:, 1] != own[:, 1:2]) | (
        negatives[:, 2] == NO_GROUP
    )
    return marked


def _same_group(own: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Mark the documents of the group of a row's positive or of its anchor, shape (rows, documents)."""
    marked: torch.Tensor = (documents[:, 2] == own[:, 2:]) | (documents[:, 2] == own[:, 1:2])
    return marked


def false_queries_of_queries(own: torch.Tensor, rows: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Mark the queries that share an anchor or a positive with a query, itself among them, shape (rows, all rows)."""
    anchor, positive = own[:, 1:].T[:, :, None]
    anchors, positives = rows[:, 1:].T
    marked: torch.Tensor = (anchors == anchor) | (positives == positive) | (positives == anchor) | (anchors == positive)
    return marked


def false_queries_of_positives(own: torch.Tensor, rows: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Mark the queries that a row's positive is no negative of, shape (rows, all rows)."""
    return _false_positives(rows, own).T


def false_documents_of_positives(own: torch.Tensor, rows: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Mark a row's own documents and the false negatives of its query, shape (rows, all rows + negatives)."""
    return false_negatives(own, rows, negatives) | _of_own_row(own, torch.cat([rows, negatives]))


def false_positives_of_positives(own: torch.Tensor, rows: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Mark a row's own positive and those that are false negatives of its query, shape (rows, all rows)."""
    return _false_positives(own, rows) | _of_own_row(own, rows)


def _of_own_row(own: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Mark a row's own documents, shape (rows, documents)."""
    marked: torch.Tensor = documents[:, 0] == own[:, :1]
    return marked
