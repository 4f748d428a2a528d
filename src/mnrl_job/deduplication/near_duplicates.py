"""Near-duplicates: candidates by MinHash bands, verified by Jaccard similarity, joined to groups.

Locality-sensitive hashing as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from mnrl_job.data.components import label_components
from mnrl_job.data.integer_sets import Integers, distinct_pairs
from mnrl_job.data.ragged import offsets_of, positions
from mnrl_job.deduplication.minhash import PAIR_BITS, Signatures
from mnrl_job.system.heartbeat import heartbeat

WORD_PAIRS_PER_BLOCK = 5_000_000
# In each band a text is compared with this many others.
NEIGHBORS = 8


def number_texts(ids: NDArray[np.int64]) -> Integers:
    """Number the texts from 0 in the order of their ids, equal texts equally. Shape (texts,), of ids (texts, 2)."""
    first, second = ids.T
    order = np.lexsort((second, first))
    numbers: Integers = np.zeros(len(ids), dtype=np.int32 if len(ids) < 2**31 else np.int64)
    if len(ids):
        first, second = first[order], second[order]
        is_new = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        numbers[order[1:]] = np.cumsum(is_new, dtype=numbers.dtype)
    return numbers


def find_representatives(texts: Integers, signatures: Signatures, threshold: float | None) -> Integers:
    """For each text the number of the text that represents its group of near-duplicates, shape (texts,).

    Groups are transitive: texts are in one group if a chain of near-duplicates connects them. Without a threshold each
    of the `texts`, as numbered by `number_texts`, represents itself.
    """
    if threshold is None:
        return texts
    numbers, first = np.unique(texts, return_index=True)
    groups = np.arange(len(numbers), dtype=np.int32)
    similar = np.empty((0, 2), dtype=np.int64)
    for band in range(signatures.bands.shape[1]):
        pairs = _find_candidates(signatures.bands[first, band], groups, np.random.default_rng(band))
        similar = np.concatenate([similar, pairs[_jaccard(signatures, first[pairs]) >= threshold]])
        groups = label_components(similar, len(numbers))
        heartbeat()
    representatives = numbers[np.unique(groups, return_index=True)[1]]
    return np.asarray(representatives[groups[np.searchsorted(numbers, texts)]])


def _find_candidates(hashes: NDArray[np.uint64], groups: Integers, rng: np.random.Generator) -> NDArray[np.int64]:
    """Pairs of texts that share a band and are not in one group yet, shape (pairs, 2).

    In random order each text is paired with the first one of its band and with its neighbors, so that the number of
    comparisons is linear in the number of texts that share a band.
    """
    order = rng.permutation(len(hashes))
    order = order[np.argsort(hashes[order], kind="stable")]
    hashes = hashes[order]
    is_first = np.diff(hashes, prepend=hashes[:1] - 1) != 0
    firsts, others = np.flatnonzero(is_first), np.flatnonzero(~is_first)
    candidates = [np.column_stack([order[firsts[np.searchsorted(firsts, others) - 1]], order[others]])]
    for distance in range(1, NEIGHBORS + 1):
        later = others[others >= distance]
        same_band = later[hashes[later - distance] == hashes[later]]
        candidates.append(np.column_stack([order[same_band - distance], order[same_band]]))
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
