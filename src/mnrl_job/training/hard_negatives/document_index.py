"""Which documents each query is compared with: all of them, or those of the nearest lists of an inverted file.

An inverted file (IVF; Jégou et al. 2011, DOI 10.1109/TPAMI.2010.57, section IV) assigns each document to the list of
its nearest centroid. A query is compared with the documents of the nearest lists only, by the same scores. So that
lists can be many and short, documents find theirs by cells of lists.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from numpy.typing import NDArray
from torch.nn.functional import normalize

from mnrl_job.data.ragged import offsets_of
from mnrl_job.data.tables import evenly_spaced
from mnrl_job.embedding.device_memory import scores_per_tile
from mnrl_job.embedding.embedding_files import Embeddings, computed_once, load, write_rows
from mnrl_job.embedding.rank_slice import own_slice, tiles_of
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.preemption import raise_if_stop_requested
from mnrl_job.training.hard_negatives import MAX_EXACT

DOCUMENTS_PER_TILE = 2**18
# Above `MAX_EXACT` documents only the nearest lists are searched. There are `LISTS_PER_ROOT` times the square root of
# the documents, and a query is compared with `PROBES_PER_BRANCH` times the square root of the lists.
LISTS_PER_ROOT, PROBES_PER_BRANCH = 12, 3.1
CELLS_OF_DOCUMENT, SPREAD_WEIGHT = 4, 0.3
SAMPLES_PER_CELL, SAMPLES_PER_LIST, TRAINING_ROUNDS = 256, 32, 6


@dataclass(frozen=True, slots=True)
class Centroids:
    """Those of cells, shape (branches, dimension), and of the lists in each, shape (branches, branches, dimension).

    The shorter a centroid is, the wider its list is spread, and the more likely a document is nearer than the centroid.
    """

    cells: torch.Tensor
    lists: torch.Tensor

    def nearest(self, vectors: torch.Tensor, count: int, cells: int | None = None) -> torch.Tensor:
        """The nearest lists of each vector, in its nearest `cells` only or in all of them; shape (vectors, count)."""
        branches = len(self.cells)
        spread = SPREAD_WEIGHT * (1 - self.lists.square().sum(dim=2)).clamp_min(0).sqrt()
        found = [torch.empty((0, count), dtype=torch.int64, device=vectors.device)]
        for tile in torch.split(vectors, max(1, scores_per_tile(vectors.device) // branches**2)):
            raise_if_stop_requested()
            heartbeat()
            near = (tile @ self.cells.T).topk(min(cells or branches, branches), dim=1).indices
            is_near = torch.zeros(len(tile), branches, dtype=torch.bool, device=tile.device).scatter_(1, near, True)
            scores = torch.full((len(tile), branches, branches), -torch.inf, device=tile.device)
            for cell in range(branches):
                rows = is_near[:, cell].nonzero()[:, 0]
                scores[rows, cell] = tile[rows] @ self.lists[cell].T + spread[cell]
            found.append(scores.flatten(1).topk(count, dim=1, sorted=False).indices)
        return torch.cat(found)


@dataclass(frozen=True, slots=True)
class DocumentIndex:
    """Documents, list by list.

    Attributes:
        embeddings: in the order of the lists.
        order: the document at each position.
        position: of each document.
        offsets: of each list in `order`, shape (lists + 1,).
        centroids: None to compare each query with all of them.
        probes: with how many lists each query is compared.
    """

    embeddings: Embeddings
    order: NDArray[np.int64]
    position: NDArray[np.int64]
    offsets: NDArray[np.int64]
    centroids: Centroids | None
    probes: int

    def bytes_per_query(self, depth: int) -> int:
        """Memory on the device for the embedding of a query, its lists, and its `depth` highest-scoring documents."""
        return 4 * self.embeddings.shape[1] + 32 * self.probes + 24 * depth

    def lists_of(self, queries: torch.Tensor) -> torch.Tensor:
        """The lists that each query is compared with, shape (queries, probes)."""
        if self.centroids is None:
            return torch.arange(self.probes, device=queries.device).expand(len(queries), -1)
        return self.centroids.nearest(queries, self.probes)

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
            for tile in tiles_of(slice(first, last), size):
                members = visits[tile] // lists.shape[1]
                scores = queries[members] @ documents.T
                some = slice(*np.searchsorted(on_host, (tile.start, tile.stop)))
                scores[excluded_visits[some] - tile.start, excluded_positions[some] - start] = -torch.inf
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


def build_index(documents: NDArray[np.float32], folder: Path) -> DocumentIndex:
    """An index of all documents; above `MAX_EXACT` an inverted file, with its embeddings in `folder`. Collective."""
    count = len(documents)
    if count <= MAX_EXACT:
        offsets = np.append(np.arange(0, count, DOCUMENTS_PER_TILE), count)
        return DocumentIndex(documents, np.arange(count), np.arange(count), offsets, None, len(offsets) - 1)
    branches = isqrt(LISTS_PER_ROOT * isqrt(count))
    trained = train_centroids(documents, branches)
    list_of = assign(documents, None, lambda vectors: trained.nearest(vectors, 1, CELLS_OF_DOCUMENT))
    order = computed_once(folder / "order.npy", lambda: np.argsort(list_of, kind="stable"))
    position = computed_once(folder / "position.npy", lambda: np.argsort(order))
    parts = (documents[order[tile]] for tile in tiles_of(slice(0, count), DOCUMENTS_PER_TILE))
    embeddings = write_rows(folder / "lists.npy", (count, documents.shape[1]), parts)
    offsets = offsets_of(np.bincount(list_of, minlength=branches**2))
    centroids = Centroids(trained.cells, means(documents, list_of, trained.lists))
    probes = int(branches * min(branches, PROBES_PER_BRANCH))
    return DocumentIndex(embeddings, order, position, offsets, centroids, probes)


def train_centroids(documents: Embeddings, branches: int) -> Centroids:
    """By k-means of samples of the documents, the cells split over the ranks. Collective."""
    state = PartialState()
    cells = k_means(load(documents, evenly_spaced(len(documents), branches * SAMPLES_PER_CELL)), branches)
    cells = broadcast(cells)
    sample = evenly_spaced(len(documents), branches**2 * SAMPLES_PER_LIST)
    cell_of = assign(documents, sample, lambda vectors: (vectors @ cells.T).argmax(dim=1, keepdim=True))
    lists = torch.zeros(branches, *cells.shape, device=state.device)
    for cell in range(state.process_index, branches, state.num_processes):
        members = load(documents, sample[cell_of == cell])
        lists[cell] = k_means(members if len(members) else cells[cell, None], branches)
    return Centroids(cells, reduce(lists, "sum"))


def k_means(vectors: torch.Tensor, count: int) -> torch.Tensor:
    """Spherical k-means, shape (count, dimension)."""
    centroids = vectors[torch.arange(count, device=vectors.device) * len(vectors) // count]
    size = max(1, scores_per_tile(vectors.device) // count)
    for _ in range(TRAINING_ROUNDS):
        raise_if_stop_requested()
        heartbeat()
        nearest = torch.cat([(tile @ centroids.T).argmax(dim=1) for tile in torch.split(vectors, size)])
        sums = torch.zeros_like(centroids).index_add_(0, nearest, vectors)
        # One that is nearest to no vector stays where it is.
        centroids = torch.where(sums.any(dim=1, keepdim=True), normalize(sums), centroids)
    return centroids


def assign(
    documents: Embeddings, rows: NDArray[np.int64] | None, choose: Callable[[torch.Tensor], torch.Tensor]
) -> NDArray[np.int32]:
    """What `choose` returns for these documents, or for all, shape (documents, 1), split over the ranks. Collective."""
    count = len(documents) if rows is None else len(rows)
    chosen = torch.zeros(count, dtype=torch.int32, device=PartialState().device)
    for tile in tiles_of(own_slice(count), DOCUMENTS_PER_TILE):
        chosen[tile] = choose(load(documents, tile if rows is None else rows[tile]))[:, 0].int()
    assigned: NDArray[np.int32] = reduce(chosen, "sum").cpu().numpy()
    return assigned


def means(documents: Embeddings, list_of: NDArray[np.int32], centroids: torch.Tensor) -> torch.Tensor:
    """The mean of the documents of each list, or its centroid if it has none; shape of the centroids. Collective."""
    sums = torch.zeros_like(centroids).flatten(0, 1)
    for tile in tiles_of(own_slice(len(documents)), DOCUMENTS_PER_TILE):
        sums.index_add_(0, torch.from_numpy(list_of[tile]).to(sums.device), load(documents, tile))
    counts = torch.from_numpy(np.bincount(list_of, minlength=len(sums))).to(sums.device)[:, None]
    return torch.where(counts > 0, reduce(sums, "sum") / counts, centroids.flatten(0, 1)).view_as(centroids)
