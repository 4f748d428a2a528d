"""Training pairs that also occur in an eval set. A model trained on them would be evaluated on its training data."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.integer_sets import is_in
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import read_table, write_columns
from mnrl_job.deduplication.groups import TextGroups
from mnrl_job.deduplication.minhash import Column, compute_signatures
from mnrl_job.deduplication.near_duplicates import find_representatives, number_texts


@dataclass(frozen=True, slots=True)
class RelevantPairs:
    """The queries of all eval sets with their relevant documents, as an Arrow file with columns query and document.

    The pairs of eval set i are the rows from offsets[i] to offsets[i + 1].
    """

    path: Path
    offsets: tuple[int, ...]

    @property
    def documents(self) -> Column:
        return Column(self.path, "document")


def write_relevant_pairs(eval_sets: Sequence[EvalSet], path: Path) -> RelevantPairs | None:
    """Write the relevant pairs of the eval sets, one set after another; None if there are no pairs."""
    queries: list[str] = []
    documents: list[str] = []
    offsets = [0]
    for eval_set in eval_sets:
        query_texts, document_texts = (
            dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
            for table in (read_table(eval_set.folder / f"{part}.arrow") for part in ("queries", "corpus"))
        )
        qrels = read_table(eval_set.folder / "qrels.arrow").to_pylist()
        relevant = [(row["query"], row["document"]) for row in qrels if row["relevance"] > 0]
        queries += [query_texts[query] for query, _ in relevant]
        documents += [document_texts[document] for _, document in relevant]
        offsets.append(len(queries))
    write_columns(path, query=queries, document=documents)
    return RelevantPairs(path, tuple(offsets)) if queries else None


def find_leaks(
    pairs: Pairs, groups: TextGroups, relevant_pairs: RelevantPairs, threshold: float | None, folder: Path
) -> list[NDArray[np.bool_]]:
    """Mark the pairs whose anchor is (nearly) an eval query and whose positive is (nearly) a document relevant to it.

    `threshold` is the Jaccard similarity of near-duplicates, None for equal texts only.

    Returns:
        A mask for each eval set, shape (rows,).
    """
    has_relevant_positive = np.isin(groups.joint_positives, groups.joint_relevant)
    candidates = np.flatnonzero(has_relevant_positive)
    anchors = read_table(pairs.path)[pairs.columns[0]].filter(pa.array(has_relevant_positive))
    folder.mkdir(parents=True, exist_ok=True)
    write_columns(folder / "anchors.arrow", text=anchors.to_pylist())
    signatures = compute_signatures(
        [Column(folder / "anchors.arrow", "text"), Column(relevant_pairs.path, "query")],
        threshold,
        folder / "signatures",
    )
    queries = find_representatives(number_texts(signatures.ids), signatures, threshold)
    documents = np.concatenate([groups.joint_positives[candidates], groups.joint_relevant])
    # One number per pair, so that equal pairs are found by sorting.
    keys = documents.astype(np.int64) * (int(queries.max(initial=0)) + 1) + queries
    training_keys, eval_keys = keys[: len(candidates)], keys[len(candidates) :]
    masks = []
    for start, stop in pairwise(relevant_pairs.offsets):
        mask = np.zeros(pairs.rows, dtype=bool)
        mask[candidates] = is_in(training_keys, eval_keys[start:stop])
        masks.append(mask)
    return masks
