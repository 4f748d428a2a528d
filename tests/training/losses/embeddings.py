"""Made-up embeddings of a batch, their labels, and the tiled loss over them."""

import torch
from torch.nn.functional import normalize

from mnrl_job.training.losses import contrastive_loss as module
from mnrl_job.training.losses.contrastive_loss import LossConfig, contrastive_loss
from mnrl_job.training.losses.false_negatives import BatchLabels

ROWS, DIMENSION, SCALE = 8, 5, 20.0
FOUR = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
LIBRARY = {
    "mnrl": {},
    "symmetric": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    "gte": {"directions": FOUR, "partition_mode": "joint"},
}
DIRECTIONS = {name: options.get("directions", ("query_to_doc",)) for name, options in LIBRARY.items()}
DIRECTIONS["guided"] = ("query_to_doc", "query_to_query", "pos_to_pos")
MODES = ("in_batch_negatives", "hard_negatives", "all_negatives")


def embeddings(columns, rows=ROWS, dtype=torch.float64, seed=7):
    """Anchors and the documents of each column, of unit length, shape (1 + columns, rows, dimension)."""
    made = torch.randn(1 + columns, rows, DIMENSION, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(made, dim=2).to(dtype).requires_grad_()


def labels_of(groups):
    """The labels of all positives, then of all first negatives, and so on; of each row's groups the anchor's first."""
    columns = range(1, len(groups[0]))
    return torch.tensor([[row, one[0], one[column]] for column in columns for row, one in enumerate(groups)])


def apart(columns, rows=ROWS):
    """Every text is a group of its own."""
    return labels_of(torch.arange(rows * (1 + columns)).reshape(rows, -1).tolist())


def sides_of(made):
    """Queries, and all documents column by column."""
    return made[0], made[1:].flatten(0, 1)


def guides_of(columns, rows=ROWS):
    """What a guide finds, which has nothing to do with what the model does: it takes many documents out."""
    return embeddings(columns, rows, seed=8).detach()


def batch_labels(labels, known=()):
    """Labels of the documents with pairs of an anchor and a known positive."""
    return BatchLabels(labels, torch.tensor([*known], dtype=torch.int64).reshape(-1, 2))


def ours(made, labels, objective, own=slice(None), scale=SCALE, hardness=None):
    """`labels` are a tensor where there are no known positives."""
    guides = sides_of(guides_of(len(made) - 1, made.shape[1]).to(made.dtype)) if objective == "guided" else None
    labels = labels if isinstance(labels, BatchLabels) else batch_labels(labels)
    return contrastive_loss(*sides_of(made), labels, own, LossConfig(scale, objective, hardness), guides)


def gradient(loss, made):
    return torch.autograd.grad(loss, made, retain_graph=True)[0]


def set_tiles(monkeypatch, rows, made):
    monkeypatch.setattr(module, "TILE_BYTES", rows * made[1:].shape[:2].numel() * made.element_size())
