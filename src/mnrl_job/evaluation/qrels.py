"""The relevance judgments of an eval set, and which document is the query itself."""

from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.tables import read_table


@dataclass(frozen=True, slots=True)
class Qrels:
    """The relevance judgments of rankings: ids of queries and corpus, in order; grades of the relevant documents.

    `own` are the queries that are left out of their own rankings, where the document with their id stands.
    """

    queries: list[str]
    documents: list[str]
    grades: dict[str, dict[str, int]]
    own: frozenset[str] = frozenset()


def read_qrels(eval_set: EvalSet, queries: pa.Table, corpus: pa.Table) -> Qrels:
    """The qrels of an eval set, given its tables of queries and documents."""
    own = queries["id"].filter(queries["in_corpus"]).to_pylist()
    return Qrels(queries["id"].to_pylist(), corpus["id"].to_pylist(), relevant_documents(eval_set), frozenset(own))


def relevant_documents(eval_set: EvalSet) -> dict[str, dict[str, int]]:
    """The relevant documents of each query with their grades."""
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    qrels = read_table(eval_set.folder / "qrels.arrow")
    for query, document, grade in zip(*(column.to_pylist() for column in qrels.columns), strict=True):
        if grade > 0:
            grades[query][document] = grade
    return grades
