"""Which texts are nearly the same: candidates by MinHash bands, verified by Jaccard similarity, joined to groups.

Locality-sensitive hashing as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from mnrl_job.data.integer_sets import distinct_pairs
from mnrl_job.deduplication.minhash import PAIR_BITS, Signatures
from mnrl_job.system.heartbeat import heartbeat

WORD_PAIRS_AT_ONCE = 5_000_000
# With so many others of its band a text is compared, in each band with others.
NEIGHBOURS = 8


def merge(signatures: Signatures, threshold: float | None) -> NDArray[np.int64]:
    """For each text the id that stands for its group: of two texts as similar as the threshold, the same.

    Groups are transitive: what is nearly equal to a text that is nearly equal to a third is in one group with it.

    Returns:
        One of the ids of each group, shape (texts,); without a threshold the texts' own ids.
    """
    if threshold is None:
        return signatures.ids
    ids, first, inverse = np.unique(signatures.ids, return_index=True, return_inverse=True)
    groups = np.arange(len(ids))
    joined = np.empty((0, 2), dtype=np.int64)
    for band in range(signatures.bands.shape[1]):
        pairs = _candidates(signatures.bands[first, band], groups, np.random.default_rng(band))
        alike = pairs[_similarity(signatures, first[pairs]) >= threshold]
        joined = np.concatenate([joined, alike])
        groups = _components(joined, len(ids))
        heartbeat()
    standing = ids[np.unique(groups, return_index=True)[1]]
    return np.asarray(standing[groups[inverse]])


def _candidates(hashes: NDArray[np.uint64], groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Pairs of texts that share a band and are not in one group yet, shape (pairs, 2).

    In random order each text is paired with the first one of its band and with its neighbours, so that a band that many
    share costs a few comparisons for each and not one for every two.
    """
    order = rng.permutation(len(hashes))
    order = order[np.argsort(hashes[order], kind="stable")]
    new = np.diff(hashes[order], prepend=hashes[order[:1]] - 1) != 0
    found = [np.column_stack([order[np.flatnonzero(new)[np.cumsum(new) - 1]], order])]
    for distance in range(1, NEIGHBOURS + 1):
        near = hashes[order[:-distance]] == hashes[order[distance:]]
        found.append(np.column_stack([order[:-distance][near], order[distance:][near]]))
    pairs = np.concatenate([some[groups[some[:, 0]] != groups[some[:, 1]]] for some in found])
    return distinct_pairs(np.sort(pairs, axis=1))


def _similarity(signatures: Signatures, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Jaccard similarity of the word pairs of two texts each, shape (pairs,)."""
    blocks = [np.empty(0)]
    block = np.cumsum(np.diff(signatures.starts)[pairs].sum(axis=1)) // WORD_PAIRS_AT_ONCE
    for some in np.split(pairs, np.flatnonzero(np.diff(block)) + 1):
        one, other = (_word_pairs(signatures, texts) for texts in some.T)
        common = (one * other).sum(axis=1)
        blocks.append(common / (one.sum(axis=1) + other.sum(axis=1) - common))
    return np.concatenate(blocks)


def _word_pairs(signatures: Signatures, texts: NDArray[np.int64]) -> csr_array:
    """The word pairs of some texts as rows of ones."""
    lengths = signatures.starts[texts + 1] - signatures.starts[texts]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    at = np.arange(starts[-1]) + np.repeat(signatures.starts[texts] - starts[:-1], lengths)
    return csr_array((np.ones(len(at), dtype=np.int32), signatures.pairs[at], starts), shape=(len(texts), 2**PAIR_BITS))


def _components(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    graph = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
