"""Near-duplicates: candidates by MinHash bands, verified by Jaccard similarity, joined to groups.

Locality-sensitive hashing as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from mnrl_job.data.integer_sets import distinct_pairs
from mnrl_job.data.ragged import offsets_of, positions
from mnrl_job.deduplication.minhash import PAIR_BITS, Signatures
from mnrl_job.system.heartbeat import heartbeat

WORD_PAIRS_PER_BLOCK = 5_000_000
# In each band a text is compared with this many others.
NEIGHBORS = 8


def find_representatives(signatures: Signatures, threshold: float | None) -> NDArray[np.int64]:
    """For each text the id that represents its group of near-duplicates, shape (texts,).

    Groups are transitive: texts are in one group if a chain of near-duplicates connects them. Without a threshold each
    text is represented by its own id.
    """
    if threshold is None:
        return signatures.ids
    ids, first, inverse = np.unique(signatures.ids, return_index=True, return_inverse=True)
    groups = np.arange(len(ids))
    similar = np.empty((0, 2), dtype=np.int64)
    for band in range(signatures.bands.shape[1]):
        pairs = _find_candidates(signatures.bands[first, band], groups, np.random.default_rng(band))
        similar = np.concatenate([similar, pairs[_jaccard(signatures, first[pairs]) >= threshold]])
        groups = label_components(similar, len(ids))
        heartbeat()
    representatives = ids[np.unique(groups, return_index=True)[1]]
    return np.asarray(representatives[groups[inverse]])


def label_components(edges: NDArray[np.int64], nodes: int) -> NDArray[np.int64]:
    """The connected component of each node, shape (nodes,), by the `edges`: pairs of nodes, shape (edges, 2)."""
    graph = coo_array((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(nodes, nodes))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _find_candidates(
    hashes: NDArray[np.uint64], groups: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Pairs of texts that share a band and are not in one group yet, shape (pairs, 2).

    In random order each text is paired with the first one of its band and with its neighbors, so that the number of
    comparisons is linear in the number of texts that share a band.
    """
    order = rng.permutation(len(hashes))
    order = order[np.argsort(hashes[order], kind="stable")]
    is_first = np.diff(hashes[order], prepend=hashes[order[:1]] - 1) != 0
    candidates = [np.column_stack([order[np.flatnonzero(is_first)[np.cumsum(is_first) - 1]], order])]
    for distance in range(1, NEIGHBORS + 1):
        same_band = hashes[order[:-distance]] == hashes[order[distance:]]
        candidates.append(np.column_stack([order[:-distance][same_band], order[distance:][same_band]]))
    pairs = np.concatenate([block[groups[block[:, 0]] != groups[block[:, 1]]] for block in candidates])
    return distinct_pairs(np.sort(pairs, axis=1))


def _jaccard(signatures: Signatures, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Jaccard similarity of the word pairs of two texts each, shape (pairs,)."""
    similarities = [np.empty(0)]
    block_of_pair = np.cumsum(np.diff(signatures.starts)[pairs].sum(axis=1)) // WORD_PAIRS_PER_BLOCK
    for block in np.split(pairs, np.flatnonzero(np.diff(block_of_pair)) + 1):
        left, right = (_word_pair_matrix(signatures, texts) for texts in block.T)
        common = (left * right).sum(axis=1)
        similarities.append(common / (left.sum(axis=1) + right.sum(axis=1) - common))
    return np.concatenate(similarities)


def _word_pair_matrix(signatures: Signatures, texts: NDArray[np.int64]) -> csr_array:
    """A row of ones for the word pairs of each text."""
    columns = signatures.pairs[positions(signatures.starts, texts)]
    offsets = offsets_of(signatures.starts[texts + 1] - signatures.starts[texts])
    return csr_array((np.ones(len(columns), dtype=np.int32), columns, offsets), shape=(len(texts), 2**PAIR_BITS))
