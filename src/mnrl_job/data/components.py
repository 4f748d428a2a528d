"""Connected components of a graph."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mnrl_job.data.integer_sets import Integers


def label_components(edges: Integers, nodes: int) -> NDArray[np.int32]:
    """The connected component of each node, shape (nodes,), by the `edges`: pairs of nodes, shape (edges, 2)."""
    graph = coo_array((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(nodes, nodes))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int32)


def find_components(group_ids: Integers) -> Integers:
    """Number the sets of rows that are connected by the group of an anchor or positive. Shape (rows,)."""
    return label_components(group_ids, int(group_ids.max(initial=0)) + 1)[group_ids[:, 0]]
