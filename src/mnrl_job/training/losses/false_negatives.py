"""Masks of the documents, and queries, of a batch that must not count as negatives.

`local` are the labels of this tile's rows, `rows` those of all positives of the global batch, and `negatives` those of
its negatives: row number, group of the row's anchor, own group; shape (n, 3). `known` are pairs of an anchor's and a
positive's group that occur together anywhere in the data, also outside the batch, shape (pairs, 2).
"""

from dataclasses import dataclass

import torch

from mnrl_job.data.tables import NO_GROUP


@dataclass(frozen=True, slots=True)
class BatchLabels:
    """What decides the false negatives of a global batch.

    Attributes:
        documents: row number, group of the row's anchor and own group of each document, all positives first, shape
            (documents, 3).
        known_positives: groups of anchors and of their positives, also of those outside the batch, shape (pairs, 2);
            required for anchors with several.
    """

    documents: torch.Tensor
    known_positives: torch.Tensor


def false_negatives(
    local: torch.Tensor, rows: torch.Tensor, negatives: torch.Tensor, known: torch.Tensor
) -> torch.Tensor:
    """Mark the documents that must not count as negatives of a row's query, shape (local, rows + negatives).

    These are the other positives of its anchor, documents in the group of its own positive or of the anchor itself,
    positives of other rows with the same anchor, and negatives without a group. A row's own positive is never marked,
    nor are negatives given for its anchor: they may be worded almost like its positive on purpose.
    """
    return torch.cat([_false_positives(local, rows, known), _false_hard_negatives(local, negatives, known)], dim=1)


def _false_positives(local: torch.Tensor, rows: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    same_anchor = rows[:, 1] == local[:, 1:2]
    return (_answers(local, rows, known) | same_anchor) & ~same_row(local, rows)


def _false_hard_negatives(local: torch.Tensor, negatives: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    same_anchor = negatives[:, 1] == local[:, 1:2]
    return _answers(local, negatives, known) & ~same_anchor | (negatives[:, 2] == NO_GROUP)


def _answers(local: torch.Tensor, documents: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mark documents in the group of a row's positive, of its anchor, or of another positive of this anchor."""
    anchor, positive = local[:, 1:2], local[:, 2:]
    same_group = (documents[:, 2] == positive) | (documents[:, 2] == anchor)
    return same_group | contains(known, local[:, 1], documents[:, 2])


def false_queries_of_queries(
    local: torch.Tensor, rows: torch.Tensor, _: torch.Tensor, known: torch.Tensor
) -> torch.Tensor:
    """Mark the queries that must not count as negatives of a row's query, itself included, shape (local, rows).

    Of the two rows, the anchor or positive of one is in a group of the other, or is a known positive of the other's
    anchor.
    """
    anchor, positive = local[:, 1:2], local[:, 2:]
    anchors, positives = rows[:, 1], rows[:, 2]
    same_group = (anchors == anchor) | (positives == positive) | (positives == anchor) | (anchors == positive)
    answers = contains(known, local[:, 1], positives) | contains(known, local[:, 1], anchors)
    answered = contains(known, anchors, local[:, 2]) | contains(known, anchors, local[:, 1])
    return same_group | answers | answered.T


def false_queries_of_positives(
    local: torch.Tensor, rows: torch.Tensor, _: torch.Tensor, known: torch.Tensor
) -> torch.Tensor:
    """Mark the queries for which a row's positive is no negative, shape (local, rows)."""
    return _false_positives(rows, local, known).T


def false_documents_of_positives(
    local: torch.Tensor, rows: torch.Tensor, negatives: torch.Tensor, known: torch.Tensor
) -> torch.Tensor:
    """Mark a row's own documents and the false negatives of its query, shape (local, rows + negatives)."""
    return false_negatives(local, rows, negatives, known) | same_row(local, torch.cat([rows, negatives]))


def false_positives_of_positives(
    local: torch.Tensor, rows: torch.Tensor, _: torch.Tensor, known: torch.Tensor
) -> torch.Tensor:
    """Mark a row's own positive and the false negatives of its query among the positives, shape (local, rows)."""
    return _false_positives(local, rows, known) | same_row(local, rows)


def same_row(local: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Mark a row's own documents, shape (local, documents)."""
    mask: torch.Tensor = documents[:, 0] == local[:, :1]
    return mask


def contains(pairs: torch.Tensor, firsts: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
    """Mark which (first, second) are among the pairs, without waiting for the device.

    Args:
        pairs: in any order, repeated or not, shape (pairs, 2).
        firsts: shape (n,).
        seconds: shape (m,).

    Returns:
        Shape (n, m).
    """
    if not (len(pairs) and len(firsts) and len(seconds)):
        return torch.zeros(len(firsts), len(seconds), dtype=torch.bool, device=firsts.device)
    row, row_of_pair, has_row = _positions(firsts, pairs[:, 0])
    column, column_of_pair, has_column = _positions(seconds, pairs[:, 1])
    present = has_row & has_column
    # Pairs that are not present mark an extra row.
    marked = torch.zeros(len(firsts) + 1, len(seconds), dtype=torch.bool, device=firsts.device)
    marked.index_put_((torch.where(present, row_of_pair, len(firsts)), column_of_pair), present)
    return marked[row][:, column]


def _positions(values: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions of the values and of the wanted ones among the sorted values; whether the latter are there."""
    ordered = values.sort().values
    position = torch.searchsorted(ordered, wanted.contiguous()).clamp(max=len(ordered) - 1)
    return torch.searchsorted(ordered, values.contiguous()), position, ordered[position] == wanted
