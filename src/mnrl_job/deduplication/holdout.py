"""Hold out training pairs as an eval set, in whole groups: for reporting, or for selecting weights."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnrl_job.data.components import find_components
from mnrl_job.data.evalset import EvalData
from mnrl_job.data.integer_sets import Integers
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import NO_GROUP, read_table, take
from mnrl_job.deduplication.groups import TextGroups
from mnrl_job.deduplication.text_similarity import normalize, text_id

MAX_OTHER_DOCUMENTS = 10_000


@dataclass(frozen=True, slots=True)
class HoldoutSpec:
    """What to hold out at most, and how many other documents to add at most: None for as many as there are queries.

    `stream` of the seed keeps two hold-outs of a run independent.
    """

    rows: int
    queries: int
    other_documents: int | None
    seed: int
    stream: int = 1


def choose_rows(group_ids: Integers, query_ids: Integers, spec: HoldoutSpec) -> NDArray[np.bool_]:
    """Choose whole components in random order, as long as they fit. Shape (rows,); none may fit.

    Equal anchors have equal `query_ids`, and are in one component.
    """
    components, sizes = np.unique(find_components(group_ids), return_inverse=True, return_counts=True)[1:]
    first_rows = np.unique(query_ids, return_index=True)[1]
    queries = np.bincount(components[first_rows], minlength=len(sizes))
    rows_left, queries_left = spec.rows, spec.queries
    is_chosen = np.zeros(len(sizes), dtype=bool)
    for component in np.random.default_rng((spec.seed, spec.stream)).permutation(len(sizes)):
        if not queries_left:
            break
        if sizes[component] <= rows_left and queries[component] <= queries_left:
            is_chosen[component] = True
            rows_left -= int(sizes[component])
            queries_left -= int(queries[component])
    return np.asarray(is_chosen[components])


def hold_out(
    pairs: Pairs, groups: TextGroups, is_candidate: NDArray[np.bool_], spec: HoldoutSpec
) -> tuple[NDArray[np.bool_], EvalData]:
    """Make an eval set of candidate rows. Returns a mask of the rows held out, shape (rows,), and the texts.

    The corpus holds the held-out positives and other positives of candidates as distractors, one of each group of
    near-duplicates. All positives that an anchor is paired with are relevant to it.
    """
    is_held_out = np.zeros(pairs.rows, dtype=bool)
    is_held_out[is_candidate] = choose_rows(groups.group_ids[is_candidate], groups.text_ids[is_candidate, 0], spec)
    table = read_table(pairs.path).select(["anchor", "positive"])
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    qrels: dict[tuple[str, str], int] = {}
    for row, group_id in zip(
        table.filter(pa.array(is_held_out)).to_pylist(), groups.group_ids[is_held_out, 1].tolist(), strict=True
    ):
        query, document = f"q{text_id(normalize(row['anchor']))[0] & (2**64 - 1):016x}", f"d{group_id}"
        queries.setdefault(query, row["anchor"])
        corpus.setdefault(document, row["positive"])
        qrels[query, document] = 1
    generator = np.random.default_rng((spec.seed, spec.stream + 1))
    distractors = len(queries) if spec.other_documents is None else spec.other_documents
    others = generator.permutation(np.flatnonzero(is_candidate & ~is_held_out))[:distractors]
    for group_id, positive in zip(
        groups.group_ids[others, 1].tolist(), take(table["positive"], others).to_pylist(), strict=True
    ):
        corpus.setdefault(f"d{group_id}", positive)
    return is_held_out, EvalData(queries, corpus, qrels)


def without_held_out(group_ids: Integers, negatives: Ragged, is_held_out: NDArray[np.bool_]) -> tuple[Ragged, int]:
    """Drop negatives that are in a group with a held-out text, so that training does not use it.

    `group_ids` are of anchors and positives, shape (rows, 2). Returns the negatives with `NO_GROUP` for dropped ones,
    and the number of these.
    """
    dropped = np.isin(negatives.values, group_ids[is_held_out]) & ~is_held_out[negatives.rows]
    return Ragged(np.where(dropped, NO_GROUP, negatives.values), negatives.offsets), int(dropped.sum())
