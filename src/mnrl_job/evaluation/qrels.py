"""What people judged relevant, and which document is the query itself."""

from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.tables import read_table


@dataclass(frozen=True, slots=True)
class Judged:
    """What a ranking is judged by.

    Attributes:
        queries: their ids, in order.
        documents: the ids of the corpus, in order.
        grades: the relevant documents of each query with their grades.
        own: the queries that are left out of their own rankings, where the document with their id stands.
    """

    queries: list[str]
    documents: list[str]
    grades: dict[str, dict[str, int]]
    own: frozenset[str] = frozenset()


def read_judged(eval_set: EvalSet, queries: pa.Table, corpus: pa.Table) -> Judged:
    """The judgements of an eval set, whose tables of texts are open already."""
    own = queries["id"].filter(queries["own"]).to_pylist()
    return Judged(queries["id"].to_pylist(), corpus["id"].to_pylist(), relevant_documents(eval_set), frozenset(own))


def relevant_documents(eval_set: EvalSet) -> dict[str, dict[str, int]]:
    """The relevant documents of each query with their grades."""
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    judgements = read_table(eval_set.folder / "judgements.arrow")
    for query, document, grade in zip(*(column.to_pylist() for column in judgements.columns), strict=True):
        if grade > 0:
            grades[query][document] = grade
    return grades
