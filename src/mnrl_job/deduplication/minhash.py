"""Signatures of texts: an id for equality, MinHash bands and hashed word pairs for similarity."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rensa import RMinHash

from mnrl_job.data.integer_sets import distinct
from mnrl_job.data.ragged import offsets_of
from mnrl_job.data.tables import read_table, texts_of
from mnrl_job.deduplication.text_similarity import normalize, text_id, word_pairs
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.processes import run_in_processes

PERMUTATIONS = 64
# The fraction of text pairs with a similarity of exactly the threshold that are found.
RECALL = 0.99
TEXTS_PER_CHUNK = 10_000
# Hashed together: word pairs and their hashes are Python objects at first, which take ten times the memory.
CHARACTERS_PER_HASHING = 100_000
# Bits of the hash of a word pair, which is a column of a sparse matrix.
PAIR_BITS = 30
SEED = 1

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of texts in an Arrow file, or of lists of texts, which are flattened."""

    path: Path
    name: str

    def texts(self) -> pa.ChunkedArray:
        return texts_of(read_table(self.path), self.name)


@dataclass(frozen=True, slots=True)
class Signatures:
    """Signatures of n texts. Bands and pairs are memory-mapped; without a threshold they are empty.

    Attributes:
        ids: two words of 64 bits, equal for equal texts, shape (n, 2).
        bands: hashes of the MinHash bands, shape (n, bands).
        pairs: the hashed word pairs of text i are pairs[starts[i] : starts[i + 1]].
        starts: shape (n + 1,).
    """

    ids: NDArray[np.int64]
    bands: NDArray[np.uint64]
    pairs: NDArray[np.int32]
    starts: NDArray[np.int64]


_ChunkSignatures = tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int32], NDArray[np.int64]]


def compute_signatures(columns: Sequence[Column], threshold: float | None, folder: Path) -> Signatures:
    """Compute the signatures of the texts of all columns, one column after another.

    `threshold` is the Jaccard similarity of near-duplicates, None to compute ids only. The memory-mapped arrays are in
    `folder`, which must be empty.
    """
    rows_per_band = band_rows(threshold) if threshold else 0
    chunks = [
        partial(_compute_chunk, column, start, TEXTS_PER_CHUNK, rows_per_band)
        for column in columns
        for start in range(0, len(column.texts()), TEXTS_PER_CHUNK)
    ]
    ids, lengths = [np.empty((0, 2), dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
    folder.mkdir(parents=True, exist_ok=True)
    _texts.cache_clear()
    results = run_in_processes(chunks, folder, "computing text signatures")
    count = 0
    with closing(results) as signatures, (folder / "bands").open("wb") as bands, (folder / "pairs").open("wb") as pairs:
        for chunk_ids, chunk_bands, chunk_pairs, chunk_lengths in signatures:
            ids.append(chunk_ids)
            bands.write(chunk_bands.tobytes())
            pairs.write(chunk_pairs.tobytes())
            lengths.append(chunk_lengths)
            count += len(chunk_ids)
            heartbeat(texts_compared=count)
    width = PERMUTATIONS // rows_per_band if rows_per_band else 0
    return Signatures(
        np.concatenate(ids),
        _memory_map(folder / "bands", np.uint64).reshape(count, width),
        _memory_map(folder / "pairs", np.int32),
        np.cumsum(np.concatenate(lengths)),
    )


def band_rows(threshold: float) -> int:
    """The largest number of hashes per band with a recall of at least `RECALL` at the threshold.

    Two texts of similarity s share one of b bands of r hashes with probability 1 - (1 - s^r)^b.
    """
    return next(r for r in range(PERMUTATIONS, 0, -1) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= RECALL)


@lru_cache(maxsize=1)
def _texts(column: Column) -> pa.ChunkedArray:
    """Kept for the next chunk: opening a file takes time in proportion to its size."""
    return column.texts()


def _compute_chunk(column: Column, start: int, count: int, rows_per_band: int) -> _ChunkSignatures:
    texts = [normalize(text) for text in _texts(column).slice(start, count).to_pylist()]
    ids = np.array([text_id(text) for text in texts], dtype=np.int64).reshape(-1, 2)
    if not rows_per_band:
        empty = np.empty(0, dtype=np.int32)
        return ids, empty.astype(np.uint64), empty, np.zeros(len(texts), dtype=np.int64)
    pairs, lengths = _hash_word_pairs(texts)
    offsets = offsets_of(lengths).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(pairs, offsets, PERMUTATIONS, SEED)
    digests = _flatten(matrix.to_rows()).reshape(len(texts), PERMUTATIONS)
    bands = _hash_bands(digests, rows_per_band)
    # Texts without a word have no near-duplicates, so their bands must be unique.
    bands[lengths == 0] = ids[lengths == 0, :1].astype(np.uint64)
    return ids, bands, pairs.astype(np.int32), lengths


def _hash_word_pairs(texts: list[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The distinct hashes of each text's word pairs, text by text, and how many these are.

    For rows with repeated columns SciPy would allocate dense vectors of 2 ** PAIR_BITS elements.
    """
    block_of_text = np.cumsum([len(text) for text in texts]) // CHARACTERS_PER_HASHING
    blocks, lengths = [], []
    for start, stop in pairwise([*np.flatnonzero(np.diff(block_of_text, prepend=-1)).tolist(), len(texts)]):
        pairs = [word_pairs(text) for text in texts[start:stop]]
        hashes = _flatten(RMinHash.hash_token_sets(pairs)) >> np.uint64(64 - PAIR_BITS)
        text_numbers = np.repeat(np.arange(len(pairs), dtype=np.uint64), [len(each) for each in pairs])
        keys = distinct(text_numbers << np.uint64(PAIR_BITS) | hashes)
        blocks.append(keys & np.uint64(2**PAIR_BITS - 1))
        lengths.append(np.bincount((keys >> np.uint64(PAIR_BITS)).astype(np.int64), minlength=len(pairs)))
    return np.concatenate(blocks), np.concatenate(lengths)


def _flatten(rows: Iterable[Iterable[int]]) -> NDArray[np.uint64]:
    return np.fromiter(chain.from_iterable(rows), dtype=np.uint64)


def _hash_bands(digests: NDArray[np.uint64], rows_per_band: int) -> NDArray[np.uint64]:
    """Combine the MinHash values of each band into one hash, shape (texts, bands)."""
    width = PERMUTATIONS // rows_per_band
    values = digests[:, : width * rows_per_band].reshape(-1, width, rows_per_band)
    hashes = np.zeros(values.shape[:2], dtype=np.uint64)
    for column in np.moveaxis(values, 2, 0):
        hashes = (hashes ^ column) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _memory_map(path: Path, dtype: type[Number]) -> NDArray[Number]:
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)
