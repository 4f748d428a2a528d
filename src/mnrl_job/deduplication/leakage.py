"""Training pairs that also stand in an eval set: a model trained on them would be judged on what it was told."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.integer_sets import are_among
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import read_table, write_columns
from mnrl_job.deduplication.minhash import Column, compute_signatures
from mnrl_job.deduplication.near_duplicates import merge


@dataclass(frozen=True, slots=True)
class RelevantPairs:
    """The relevant pairs of all eval sets as an Arrow file with the columns query and document; `starts` by set."""

    path: Path
    starts: tuple[int, ...]

    @property
    def documents(self) -> Column:
        return Column(self.path, "document")


def judged_pairs(eval_sets: Sequence[EvalSet], path: Path) -> RelevantPairs | None:
    """Write the relevant pairs of the eval sets, those of one set after those of another; None without eval sets."""
    queries: list[str] = []
    documents: list[str] = []
    starts = [0]
    for one in eval_sets:
        texts = [
            dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
            for table in (read_table(one.folder / "queries.arrow"), read_table(one.folder / "corpus.arrow"))
        ]
        judgements = read_table(one.folder / "judgements.arrow").to_pylist()
        relevant = [(row["query"], row["document"]) for row in judgements if row["grade"] > 0]
        queries += [texts[0][query] for query, _ in relevant]
        documents += [texts[1][document] for _, document in relevant]
        starts.append(len(queries))
    write_columns(path, query=queries, document=documents)
    return RelevantPairs(path, tuple(starts)) if queries else None


def find_leaks(
    pairs: Pairs,
    positives: NDArray[np.int64],
    judged: RelevantPairs,
    relevant: NDArray[np.int64],
    threshold: float | None,
    folder: Path,
) -> list[NDArray[np.bool_]]:
    """Mark the rows whose anchor is (nearly) an eval query and whose positive is (nearly) a document relevant to it.

    Args:
        pairs: the training pairs.
        positives: the group of each row's positive, shape (rows,).
        judged: the relevant pairs of the eval sets.
        relevant: the group of each relevant document, shape (judged pairs,).
        threshold: similarity from which texts are the same; None for equal ones only.
        folder: for files of ours.

    Returns:
        For each eval set the marked rows, shape (rows,).
    """
    judged_positives = np.isin(positives, relevant)
    candidates = np.flatnonzero(judged_positives)
    anchors = read_table(pairs.path)[pairs.columns[0]].filter(pa.array(judged_positives))
    folder.mkdir(parents=True, exist_ok=True)
    write_columns(folder / "anchors.arrow", text=anchors.to_pylist())
    signed = compute_signatures(
        [Column(folder / "anchors.arrow", "text"), Column(judged.path, "query")], threshold, folder / "signatures"
    )
    # Two numbers for each pair, so that equal pairs are found by sorting.
    _, texts = np.unique(merge(signed, threshold), return_inverse=True)
    span = int(texts.max(initial=0)) + 1
    documents = np.unique(np.concatenate([positives[candidates], relevant]), return_inverse=True)[1]
    both = documents * span + texts
    taught, asked = both[: len(candidates)], both[len(candidates) :]
    leaks = []
    for start, stop in pairwise(judged.starts):
        marked = np.zeros(pairs.rows, dtype=bool)
        marked[candidates] = are_among(taught, asked[start:stop])
        leaks.append(marked)
    return leaks
