"""Texts as numbers: an id for equality, MinHash bands and hashed word pairs for similarity. By several processes."""

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
# Of two texts just as similar as the threshold, so many are found.
RECALL = 0.99
TEXTS_PER_CHUNK = 10_000
# Of the hash of a word pair: its number, as a column of a sparse matrix.
PAIR_BITS = 30
SEED = 1

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of texts in an Arrow file, or of lists, whose texts count one after another."""

    path: Path
    name: str

    def texts(self) -> pa.ChunkedArray:
        return texts_of(read_table(self.path), self.name)


@dataclass(frozen=True, slots=True)
class Signatures:
    """Of n texts: ids (n,), bands (n, bands), and the hashed word pairs of text i at pairs[starts[i] : starts[i + 1]].

    The two large ones are mapped from disk. Without a threshold there are only ids.
    """

    ids: NDArray[np.int64]
    bands: NDArray[np.uint64]
    pairs: NDArray[np.int32]
    starts: NDArray[np.int64]

    def first(self, count: int) -> "Signatures":
        """Those of the first few texts."""
        return Signatures(self.ids[:count], self.bands[:count], self.pairs, self.starts[: count + 1])


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some texts of a column; a helper leaves their signatures at `path`."""

    column: Column
    start: int
    count: int
    rows_per_band: int
    path: Path


_Signed = tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int32], NDArray[np.int64]]


def compute_signatures(columns: Sequence[Column], threshold: float | None, folder: Path) -> Signatures:
    """Sign the texts of all columns, one column after another.

    Args:
        columns: where the texts are.
        threshold: the similarity that matters; None where only equality does.
        folder: an empty folder for what is large.
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
        for signed in _each(chunks):
            ids.append(signed[0])
            bands.write(signed[1].tobytes())
            pairs.write(signed[2].tobytes())
            lengths.append(signed[3])
            heartbeat(texts_compared=sum(map(len, ids)))
    count = sum(map(len, ids))
    width = PERMUTATIONS // rows_per_band if rows_per_band else 0
    return Signatures(
        np.concatenate(ids),
        _mapped(folder / "bands", np.uint64).reshape(count, width),
        _mapped(folder / "pairs", np.int32),
        np.cumsum(np.concatenate(lengths)),
    )


def band_rows(threshold: float) -> int:
    """Hashes of a band: as many as still find `RECALL` of the texts just as similar as the threshold.

    Two texts of similarity s share one of b bands of r hashes with probability 1 - (1 - s^r)^b.
    """
    enough = (r for r in range(PERMUTATIONS, 0, -1) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= RECALL)
    return next(enough)


def _each(chunks: list[_Chunk]) -> Iterator[_Signed]:
    """Sign chunk after chunk, in their order, on all cores where there are many."""
    cores = usable_cpus()
    if min(cores, len(chunks) // 4) < 2:
        yield from map(_sign_chunk, chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(cores, len(chunks)), context, initializer=_start, initargs=(os.getpid(),)) as pool:
        try:
            for chunk, _ in zip(chunks, pool.map(_leave_chunk, chunks), strict=True):
                yield _take_chunk(chunk)
        except BrokenProcessPool as error:
            raise InternalError("a helper that reads texts was killed; the machine may be out of memory") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(parent: int) -> None:
    """A helper process ends with its parent, which alone answers signals."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave_chunk(chunk: _Chunk) -> None:
    """In a file: a helper that is killed halfway through telling so much would leave the parent reading for ever."""
    with chunk.path.open("wb") as file:
        for part in _sign_chunk(chunk):
            np.save(file, part)


def _take_chunk(chunk: _Chunk) -> _Signed:
    with chunk.path.open("rb") as file:
        ids, bands, pairs, lengths = (np.load(file) for _ in range(4))
    chunk.path.unlink()
    return ids, bands, pairs, lengths


def _sign_chunk(chunk: _Chunk) -> _Signed:
    texts = [normalize(text) for text in chunk.column.texts().slice(chunk.start, chunk.count).to_pylist()]
    ids = np.array([text_id(text) for text in texts], dtype=np.int64)
    if not chunk.rows_per_band:
        nothing = np.empty(0, dtype=np.int32)
        return ids, nothing.astype(np.uint64), nothing, np.zeros(len(texts), dtype=np.int64)
    hashed = [_numbers(word_pairs(text)) for text in texts]
    lengths = np.array([len(one) for one in hashed], dtype=np.int64)
    flat = np.concatenate(hashed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, PERMUTATIONS, SEED)
    bands = _bands(np.array(matrix.to_rows(), dtype=np.uint64), chunk.rows_per_band)
    # Texts without a word are like no other: each gets bands of its own.
    bands[lengths == 0] = ids[lengths == 0, None].astype(np.uint64)
    return ids, bands, flat.astype(np.int32), lengths


def _numbers(pairs: list[str]) -> NDArray[np.uint64]:
    """The numbers of a text's word pairs, each once.

    SciPy compares texts that repeat one by way of vectors of 2 ** PAIR_BITS elements. One text after another, as the
    library's lists of numbers take eight times the memory.
    """
    (hashes,) = RMinHash.hash_token_sets([pairs])
    return np.unique(np.array(hashes, dtype=np.uint64) >> np.uint64(64 - PAIR_BITS))


def _bands(digests: NDArray[np.uint64], rows_per_band: int) -> NDArray[np.uint64]:
    """One hash for each band of a text's MinHash, shape (texts, bands)."""
    width = PERMUTATIONS // rows_per_band
    parts = digests[:, : width * rows_per_band].reshape(-1, width, rows_per_band)
    hashes = np.zeros(parts.shape[:2], dtype=np.uint64)
    for hash_of_row in np.moveaxis(parts, 2, 0):
        hashes = (hashes ^ hash_of_row) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _mapped(path: Path, kind: type[Number]) -> NDArray[Number]:
    return np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.empty(0, dtype=kind)
