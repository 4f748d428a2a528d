"""Which documents, and which queries, must not count as negatives in a batch.

Labels have three columns: row number, group of the row's anchor, own group. `local` are those of this tile's rows,
`rows` those of all positives of the global batch, `negatives` those of its negatives.
"""

import torch

from mnrl_job.data.tables import NO_GROUP


def false_negatives(local: torch.Tensor, rows: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Mark, for each query of some rows, the documents of the global batch that must not count as its negatives.

    These are documents of the group of its positive or of the query itself, positives of other rows with the same
    anchor, and documents that must never be negatives. A query's own positive is never marked, nor are negatives that
    were given for its anchor: they may be worded almost like its positive on purpose.

    Args:
        local: labels of the rows' positives, shape (rows, 3).
        rows: labels of all positives of the global batch, shape (all rows, 3).
        negatives: labels of its negatives, shape (negatives, 3).

    Returns:
        Shape (rows, all rows + negatives).
    """
    return torch.cat([_false_positives(local, rows), _false_hard_negatives(local, negatives)], dim=1)


def _false_positives(local: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Among the positives of other rows, shape (rows, all rows)."""
    mask: torch.Tensor = (_same_group(local, rows) | (rows[:, 1] == local[:, 1:2])) & (rows[:, 0] != local[:, :1])
    return mask


def _false_hard_negatives(local: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Among the negatives given for other anchors, shape (rows, negatives)."""
    mask: torch.Tensor = _same_group(local, negatives) & (negatives[:, 1] != local[:, 1:2]) | (
        negatives[:, 2] == NO_GROUP
    )
    return mask


def _same_group(local: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Mark the documents of the group of a row's positive or of its anchor, shape (rows, documents)."""
    mask: torch.Tensor = (documents[:, 2] == local[:, 2:]) | (documents[:, 2] == local[:, 1:2])
    return mask


def false_queries_of_queries(local: torch.Tensor, rows: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Mark the queries that share an anchor or a positive with a query, itself included, shape (rows, all rows)."""
    anchor, positive = local[:, 1:].T[:, :, None]
    anchors, positives = rows[:, 1:].T
    mask: torch.Tensor = (anchors == anchor) | (positives == positive) | (positives == anchor) | (anchors == positive)
    return mask


def false_queries_of_positives(local: torch.Tensor, rows: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Mark the queries for which a row's positive is no negative, shape (rows, all rows)."""
    return _false_positives(rows, local).T


def false_documents_of_positives(local: torch.Tensor, rows: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Mark a row's own documents and the false negatives of its query, shape (rows, all rows + negatives)."""
    return false_negatives(local, rows, negatives) | same_row(local, torch.cat([rows, negatives]))


def false_positives_of_positives(local: torch.Tensor, rows: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Mark a row's own positive and those that are false negatives of its query, shape (rows, all rows)."""
    return _false_positives(local, rows) | same_row(local, rows)


def same_row(local: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Mark a row's own documents, shape (rows, documents)."""
    mask: torch.Tensor = documents[:, 0] == local[:, :1]
    return mask
