"""Groups of made-up rows, and plans over them."""

from collections import Counter

import numpy as np
from hypothesis import strategies as st

from mnrl_job.batching.planning import PlanConfig, SourceShare, divide_sources, plan_epoch

# A group may be of an anchor in one row and of a positive in another.
MIXED = st.lists(st.tuples(st.integers(0, 40), st.integers(20, 60)), min_size=2, max_size=150).map(np.array)
BIPARTITE = st.lists(st.tuples(st.integers(0, 12), st.integers(20, 32)), min_size=2, max_size=150).map(np.array)


def epoch_of(groups, batch_size, seed=1, epoch=0):
    config = PlanConfig(batch_size, (SourceShare(len(groups)),), seed)
    return plan_epoch(groups, divide_sources(groups, config), config, epoch)


def zipf(rows, exponent=1.3, seed=0):
    return np.unique(np.random.default_rng(seed).zipf(exponent, rows), return_inverse=True)[1]


def distinct_anchors(positives):
    return np.stack([positives.max() + 1 + np.arange(len(positives)), positives], axis=1)


def repeated_groups(groups, batch):
    """Groups of more than one row of a batch."""
    counts = Counter(group for row in batch for group in set(groups[row].tolist()))
    return [group for group, count in counts.items() if count > 1]
