"""Signatures of texts: an id for equality, MinHash bands and hashed word pairs for similarity."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rensa import RMinHash

from mnrl_job.data.tables import read_table, texts_of
from mnrl_job.deduplication.text_similarity import normalize, text_id, word_pairs
from mnrl_job.errors import InternalError
from mnrl_job.system.cpus import usable_cpus
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.parent_death import die_with_parent

PERMUTATIONS = 64
# The fraction of text pairs with a similarity of exactly the threshold that are found.
RECALL = 0.99
TEXTS_PER_CHUNK = 10_000
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
        ids: equal for equal texts, shape (n,).
        bands: hashes of the MinHash bands, shape (n, bands).
        pairs: the hashed word pairs of text i are pairs[starts[i] : starts[i + 1]].
        starts: shape (n + 1,).
    """

    ids: NDArray[np.int64]
    bands: NDArray[np.uint64]
    pairs: NDArray[np.int32]
    starts: NDArray[np.int64]

    def first(self, count: int) -> "Signatures":
        return Signatures(self.ids[:count], self.bands[:count], self.pairs, self.starts[: count + 1])


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Texts of a column; a worker process writes their signatures to `path`."""

    column: Column
    start: int
    count: int
    rows_per_band: int
    path: Path


_ChunkSignatures = tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int32], NDArray[np.int64]]


def compute_signatures(columns: Sequence[Column], threshold: float | None, folder: Path) -> Signatures:
    """Compute the signatures of the texts of all columns, one column after another.

    `threshold` is the Jaccard similarity of near-duplicates, None to compute ids only. The memory-mapped arrays are in
    `folder`, which must be empty.
    """
    rows_per_band = band_rows(threshold) if threshold else 0
    chunks = [
        _Chunk(column, start, TEXTS_PER_CHUNK, rows_per_band, folder / f"{number}-{start}")
        for number, column in enumerate(columns)
        for start in range(0, len(column.texts()), TEXTS_PER_CHUNK)
    ]
    ids, lengths = [np.empty(0, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bands").open("wb") as bands, (folder / "pairs").open("wb") as pairs:
        for chunk_ids, chunk_bands, chunk_pairs, chunk_lengths in _compute_chunks(chunks):
            ids.append(chunk_ids)
            bands.write(chunk_bands.tobytes())
            pairs.write(chunk_pairs.tobytes())
            lengths.append(chunk_lengths)
            heartbeat(texts_compared=sum(map(len, ids)))
    count = sum(map(len, ids))
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


def _compute_chunks(chunks: list[_Chunk]) -> Iterator[_ChunkSignatures]:
    """Yield the signatures of each chunk, in order. Uses all cores if there are many chunks."""
    cores = usable_cpus()
    if min(cores, len(chunks) // 4) < 2:
        yield from map(_compute_chunk, chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(cores, len(chunks)), context, initializer=_start_process, initargs=(os.getpid(),)
    ) as pool:
        try:
            for chunk, _ in zip(chunks, pool.map(_write_chunk, chunks), strict=True):
                yield _read_chunk(chunk)
        except BrokenProcessPool as error:
            raise InternalError(
                "a process computing text signatures was killed; the machine may be out of memory"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_process(parent: int) -> None:
    """Exit with the parent, which alone handles signals."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_chunk(chunk: _Chunk) -> None:
    """Write to a file, not to the pipe: a process killed halfway would block the parent forever."""
    with chunk.path.open("wb") as file:
        for array in _compute_chunk(chunk):
            np.save(file, array)


def _read_chunk(chunk: _Chunk) -> _ChunkSignatures:
    with chunk.path.open("rb") as file:
        ids, bands, pairs, lengths = (np.load(file) for _ in range(4))
    chunk.path.unlink()
    return ids, bands, pairs, lengths


def _compute_chunk(chunk: _Chunk) -> _ChunkSignatures:
    texts = [normalize(text) for text in chunk.column.texts().slice(chunk.start, chunk.count).to_pylist()]
    ids = np.array([text_id(text) for text in texts], dtype=np.int64)
    if not chunk.rows_per_band:
        empty = np.empty(0, dtype=np.int32)
        return ids, empty.astype(np.uint64), empty, np.zeros(len(texts), dtype=np.int64)
    hashes = [_hash_pairs(word_pairs(text)) for text in texts]
    lengths = np.array([len(each) for each in hashes], dtype=np.int64)
    flat = np.concatenate(hashes)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, PERMUTATIONS, SEED)
    bands = _hash_bands(np.array(matrix.to_rows(), dtype=np.uint64), chunk.rows_per_band)
    # Texts without a word have no near-duplicates, so their bands must be unique.
    bands[lengths == 0] = ids[lengths == 0, None].astype(np.uint64)
    return ids, bands, flat.astype(np.int32), lengths


def _hash_pairs(pairs: list[str]) -> NDArray[np.uint64]:
    """The distinct hashes of a text's word pairs.

    For rows with repeated columns SciPy would allocate dense vectors of 2 ** PAIR_BITS elements. Texts are hashed one
    by one, as the library's lists of Python integers take eight times the memory.
    """
    (hashes,) = RMinHash.hash_token_sets([pairs])
    return np.unique(np.array(hashes, dtype=np.uint64) >> np.uint64(64 - PAIR_BITS))


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
