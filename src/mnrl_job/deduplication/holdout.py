"""Hold out training pairs as an eval set, in whole groups."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnrl_job.data.evalset import EvalData
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import NO_GROUP, read_table, take
from mnrl_job.deduplication.groups import TextGroups
from mnrl_job.deduplication.near_duplicates import label_components
from mnrl_job.errors import DataError

MAX_OTHER_DOCUMENTS = 10_000


@dataclass(frozen=True, slots=True)
class HoldoutLimits:
    """How much is held out at most: a fraction of the rows, and distinct queries."""

    ratio: float
    max_queries: int


@dataclass(frozen=True, slots=True)
class HeldOut:
    """An eval set made of training pairs; `rows` marks them, shape (rows,)."""

    rows: NDArray[np.bool_]
    data: EvalData


def find_components(group_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the sets of rows that are connected by the group of an anchor or positive. Shape (rows,)."""
    return label_components(group_ids, int(group_ids.max(initial=0)) + 1)[group_ids[:, 0]]


def choose_rows(
    group_ids: NDArray[np.int64], query_ids: NDArray[np.int64], limits: HoldoutLimits, seed: int
) -> NDArray[np.bool_]:
    """Choose whole components in random order, as long as they fit into the limits. Shape (rows,).

    Equal anchors have equal `query_ids`, and are in one component.

    Raises:
        DataError: none fits, so nothing can be held out.
    """
    components, sizes = np.unique(find_components(group_ids), return_inverse=True, return_counts=True)[1:]
    first_rows = np.unique(query_ids, return_index=True)[1]
    queries = np.bincount(components[first_rows], minlength=len(sizes))
    rows_left, queries_left = int(len(group_ids) * limits.ratio), limits.max_queries
    is_chosen = np.zeros(len(sizes), dtype=bool)
    for component in np.random.default_rng((seed, 1)).permutation(len(sizes)):
        if sizes[component] <= rows_left and queries[component] <= queries_left:
            is_chosen[component] = True
            rows_left -= int(sizes[component])
            queries_left -= int(queries[component])
    if not is_chosen.any():
        raise DataError(
            f"MNRL_HOLDOUT_RATIO={limits.ratio:g}, MNRL_HOLDOUT_MAX_QUERIES={limits.max_queries}: no group of the "
            f"{len(group_ids)} rows is small enough to hold out; give MNRL_EVAL_DATA, more pairs, or "
            "MNRL_HOLDOUT_RATIO=0 to train without evaluation"
        )
    return np.asarray(is_chosen[components])


def hold_out(pairs: Pairs, groups: TextGroups, limits: HoldoutLimits, seed: int) -> HeldOut:
    """Make an eval set of some of the pairs.

    The corpus holds the held-out positives and up to `MAX_OTHER_DOCUMENTS` other positives as distractors, one of each
    group of near-duplicates. All positives that an anchor is paired with are relevant to it.

    Raises:
        DataError: nothing can be held out.
    """
    is_held_out = choose_rows(groups.group_ids, groups.text_ids[:, 0], limits, seed)
    table = read_table(pairs.path).select(["anchor", "positive"])
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    qrels: dict[tuple[str, str], int] = {}
    for row, text_id, group_id in zip(
        table.filter(pa.array(is_held_out)).to_pylist(),
        groups.text_ids[is_held_out, 0].tolist(),
        groups.group_ids[is_held_out, 1].tolist(),
        strict=True,
    ):
        query, document = f"q{text_id & (2**64 - 1):016x}", f"d{group_id}"
        queries.setdefault(query, row["anchor"])
        corpus.setdefault(document, row["positive"])
        qrels[query, document] = 1
    others = np.random.default_rng((seed, 2)).permutation(np.flatnonzero(~is_held_out))[:MAX_OTHER_DOCUMENTS]
    for group_id, positive in zip(
        groups.group_ids[others, 1].tolist(), take(table["positive"], others).to_pylist(), strict=True
    ):
        corpus.setdefault(f"d{group_id}", positive)
    return HeldOut(is_held_out, EvalData(queries, corpus, qrels))


def without_held_out(
    group_ids: NDArray[np.int64], negatives: Ragged, is_held_out: NDArray[np.bool_]
) -> tuple[Ragged, int]:
    """Drop negatives that are in a group with a held-out text, so that training does not use it.

    `group_ids` are of anchors and positives, shape (rows, 2). Returns the negatives with `NO_GROUP` for dropped ones,
    and the number of these.
    """
    dropped = np.isin(negatives.values, group_ids[is_held_out]) & ~is_held_out[negatives.rows]
    return Ragged(np.where(dropped, NO_GROUP, negatives.values), negatives.offsets), int(dropped.sum())
