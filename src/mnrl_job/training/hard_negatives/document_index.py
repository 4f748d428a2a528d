"""Which documents each query is compared with: all of them, or those of the nearest lists of an inverted file.

An inverted file (IVF; Jégou et al. 2011, DOI 10.1109/TPAMI.2010.57, section IV) assigns each document to the nearest of
some centroids. A query is compared with the documents of its nearest centroids only, by the same scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from numpy.typing import NDArray

from mnrl_job.data.ragged import offsets_of
from mnrl_job.data.tables import evenly_spaced
from mnrl_job.embedding.device_memory import scores_per_tile
from mnrl_job.embedding.embedding_files import Embeddings, load, write_rows
from mnrl_job.embedding.rank_slice import rank_slice
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.preemption import raise_if_stop_requested

DOCUMENTS_PER_TILE = 2**18
# Above so many documents only the nearest lists are searched: `LISTS_PER_ROOT` times the square root of the documents.
MAX_EXACT, LISTS_PER_ROOT, PROBED_FRACTION = 1_000_000, 4, 0.02
SAMPLES_PER_LIST, TRAINING_ROUNDS = 32, 6


@dataclass(frozen=True, slots=True)
class DocumentIndex:
    """Documents, list by list.

    Attributes:
        embeddings: in the order of the lists.
        order: the document at each position.
        position: of each document.
        offsets: of each list in `order`, shape (lists + 1,).
        centroids: of the lists; None to compare each query with all of them.
        probes: with how many lists each query is compared.
    """

    embeddings: Embeddings
    order: NDArray[np.int64]
    position: NDArray[np.int64]
    offsets: NDArray[np.int64]
    centroids: torch.Tensor | None
    probes: int

    def bytes_per_query(self, depth: int) -> int:
        """Memory on the device for the embedding of a query, its lists, and its `depth` highest-scoring documents."""
        return 4 * self.embeddings.shape[1] + 32 * self.probes + 24 * depth

    def lists_of(self, queries: torch.Tensor) -> torch.Tensor:
        """The lists that each query is compared with, shape (queries, probes)."""
        if self.centroids is None:
            return torch.arange(self.probes, device=queries.device).expand(len(queries), -1)
        return nearest(queries, self.centroids, self.probes)

    def score_tiles(
        self, queries: torch.Tensor, excluded: NDArray[np.int64]
    ) -> Iterator[tuple[torch.Tensor, slice, torch.Tensor]]:
        """Compare queries with the documents of their lists, tile by tile, waiting for the device only once.

        Args:
            queries: shape (queries, dimension).
            excluded: pairs of query and document, shape (2, n), whose score is -inf.

        Yields:
            Some queries, the positions of the documents of a list, and their scores.
        """
        lists = self.lists_of(queries)
        # A visit is a query in a list, in the order of the lists.
        visits = lists.flatten().argsort(stable=True)
        counts = torch.bincount(lists.flatten(), minlength=len(self.offsets) - 1)
        excluded_visits, excluded_positions = self._visits_of(excluded, lists, visits)
        on_host = excluded_visits.cpu().numpy()
        bounds = pairwise(offsets_of(counts.cpu().numpy()).tolist())
        for (first, last), (start, stop) in zip(bounds, pairwise(self.offsets.tolist()), strict=True):
            if first == last or start == stop:
                continue
            raise_if_stop_requested()
            heartbeat()
            documents = load(self.embeddings, slice(start, stop))
            size = max(1, scores_per_tile(queries.device) // len(documents))
            for visit in range(first, last, size):
                members = visits[visit : min(visit + size, last)] // lists.shape[1]
                scores = queries[members] @ documents.T
                some = slice(*np.searchsorted(on_host, (visit, visit + len(members))))
                scores[excluded_visits[some] - visit, excluded_positions[some] - start] = -torch.inf
                yield members, slice(start, stop), scores

    def _visits_of(
        self, pairs: NDArray[np.int64], lists: torch.Tensor, visits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The visits of pairs of query and document, in ascending order, and the positions of the documents."""
        positions = self.position[pairs[1]]
        lists_of_documents = np.searchsorted(self.offsets, positions, side="right") - 1
        query, position, number = torch.from_numpy(np.stack([pairs[0], positions, lists_of_documents])).to(lists.device)
        visited = lists[query] == number[:, None]
        visit_at = torch.empty_like(visits)
        visit_at[visits] = torch.arange(len(visits), device=visits.device)
        pair, probe = visited.nonzero(as_tuple=True)
        found, order = visit_at[query[pair] * lists.shape[1] + probe].sort()
        return found, position[pair][order]


def build_index(documents: NDArray[np.float32], path: Path) -> DocumentIndex:
    """An index of all documents, or above `MAX_EXACT` an inverted file, whose embeddings are in `path`. Collective."""
    count = len(documents)
    if count <= MAX_EXACT:
        offsets = np.append(np.arange(0, count, DOCUMENTS_PER_TILE), count)
        return DocumentIndex(documents, np.arange(count), np.arange(count), offsets, None, len(offsets) - 1)
    centroids = train_centroids(documents, LISTS_PER_ROOT * isqrt(count))
    lists = len(centroids)
    list_of = assign(documents, centroids)
    order = np.argsort(list_of, kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(count)
    parts = (documents[order[start : start + DOCUMENTS_PER_TILE]] for start in range(0, count, DOCUMENTS_PER_TILE))
    embeddings = write_rows(path, (count, documents.shape[1]), parts)
    offsets = offsets_of(np.bincount(list_of, minlength=lists))
    return DocumentIndex(embeddings, order, position, offsets, centroids, max(1, int(lists * PROBED_FRACTION)))


def train_centroids(documents: Embeddings, count: int) -> torch.Tensor:
    """By spherical k-means of a sample, split over the ranks; shape (count, dimension). Collective."""
    sample = evenly_spaced(len(documents), count * SAMPLES_PER_LIST)
    state = PartialState()
    vectors = load(documents, sample[rank_slice(len(sample), state.process_index, state.num_processes)])
    centroids = load(documents, evenly_spaced(len(documents), count))
    for _ in range(TRAINING_ROUNDS):
        sums = torch.zeros_like(centroids).index_add_(0, nearest(vectors, centroids, 1)[:, 0], vectors)
        sums = reduce(sums, "sum")
        # A list that no document of the sample is nearest to stays where it is.
        centroids = torch.where(sums.any(dim=1, keepdim=True), torch.nn.functional.normalize(sums), centroids)
    return centroids


def assign(documents: Embeddings, centroids: torch.Tensor) -> NDArray[np.int32]:
    """The nearest list of each document, split over the ranks. Collective."""
    state = PartialState()
    lists = torch.zeros(len(documents), dtype=torch.int32, device=state.device)
    local = rank_slice(len(documents), state.process_index, state.num_processes)
    for start in range(local.start, local.stop, DOCUMENTS_PER_TILE):
        rows = slice(start, min(start + DOCUMENTS_PER_TILE, local.stop))
        lists[rows] = nearest(load(documents, rows), centroids, 1)[:, 0].int()
    assigned: NDArray[np.int32] = reduce(lists, "sum").cpu().numpy()
    return assigned


def nearest(vectors: torch.Tensor, centroids: torch.Tensor, count: int) -> torch.Tensor:
    """The nearest centroids of each vector, shape (vectors, count)."""
    size = max(1, scores_per_tile(vectors.device) // len(centroids))
    found = [torch.empty((0, count), dtype=torch.int64, device=vectors.device)]
    for start in range(0, len(vectors), size):
        raise_if_stop_requested()
        heartbeat()
        found.append((vectors[start : start + size] @ centroids.T).topk(count, dim=1, sorted=False).indices)
    return torch.cat(found)
