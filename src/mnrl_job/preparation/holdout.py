"""An eval set made from the training pairs, where the user has none: whole groups are held out."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnrl_job.errors import DataError
from mnrl_job.records import Pairs
from mnrl_job.runtime.tables import read_table, write_table

CORPUS_ROWS = 10_000
MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Queries, corpus and grades taken out of the training pairs."""

    queries: dict[str, str]
    corpus: dict[str, str]
    grades: dict[tuple[str, str], int]


def components(text_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the groups of rows that hang together by an equal anchor or an equal positive. Shape (rows,).

    Union-find over rows, with path halving.
    """
    parent = list(range(len(text_ids)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[tuple[int, int], int] = {}
    for row, keys in enumerate(text_ids[:, :2].tolist()):
        for column, key in enumerate(keys):
            parent[root(row)] = root(first.setdefault((column, key), row))
    return np.array([root(row) for row in range(len(parent))], dtype=np.int64)


def choose_rows(text_ids: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Mark the rows to hold out: whole groups, in random order, while they fit into `share` of the rows.

    Raises:
        DataError: no group fits, so nothing could be held out.
    """
    groups, sizes = np.unique(components(text_ids), return_inverse=True, return_counts=True)[1:]
    budget = int(len(text_ids) * share)
    chosen = np.zeros(len(sizes), dtype=bool)
    for group in np.random.default_rng((seed, 1)).permutation(len(sizes)):
        if sizes[group] <= budget:
            chosen[group] = True
            budget -= int(sizes[group])
    if not chosen.any():
        raise DataError(
            f"MNRL_EVAL_HOLDOUT={share:g}: no group of the {len(text_ids)} rows is small enough to hold out; "
            "give MNRL_EVAL_DATA, more pairs, or MNRL_EVAL_HOLDOUT=0 to train without evaluation"
        )
    return np.asarray(chosen[groups])


def hold_out(
    pairs: Pairs, text_ids: NDArray[np.int64], share: float, seed: int, path: Path
) -> tuple[Pairs, NDArray[np.int64], HeldOut]:
    """Split the pairs: those that stay, written to `path`, and an eval set of those held out.

    The corpus holds the held-out positives and up to `CORPUS_ROWS` of the others, so that a query has something to be
    wrong about.

    Returns:
        The pairs that stay, their text ids, and what was held out.

    Raises:
        DataError: nothing can be held out.
    """
    held = choose_rows(text_ids, share, seed)
    table = read_table(pairs.path)
    others = np.flatnonzero(~held)
    sample = np.random.default_rng((seed, 2)).permutation(others)[:CORPUS_ROWS]
    asked = table.filter(pa.array(held))
    write_table(path, table.filter(pa.array(~held)))
    return (
        replace(pairs, path=path, rows=len(others)),
        text_ids[~held],
        _eval_set(asked, text_ids[held], table.take(pa.array(sample)), text_ids[sample]),
    )


def _eval_set(asked: pa.Table, asked_ids: NDArray[np.int64], others: pa.Table, other_ids: NDArray[np.int64]) -> HeldOut:
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    grades: dict[tuple[str, str], int] = {}
    rows = zip(asked_ids.tolist(), asked["anchor"].to_pylist(), asked["positive"].to_pylist(), strict=True)
    for (anchor_id, positive_id, *_), anchor, positive in rows:
        query, document = f"q{anchor_id & MASK:016x}", f"d{positive_id & MASK:016x}"
        queries.setdefault(query, anchor)
        corpus.setdefault(document, positive)
        grades[query, document] = 1
    for (_, positive_id, *_), positive in zip(other_ids.tolist(), others["positive"].to_pylist(), strict=True):
        corpus.setdefault(f"d{positive_id & MASK:016x}", positive)
    return HeldOut(queries, corpus, grades)
