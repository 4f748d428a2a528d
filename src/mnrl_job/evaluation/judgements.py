"""What people judged relevant."""

from collections import defaultdict

from mnrl_job.records import EvalSet
from mnrl_job.runtime.tables import read_table


def relevant_documents(eval_set: EvalSet) -> dict[str, dict[str, int]]:
    """The relevant documents of each query with their grades."""
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    judgements = read_table(eval_set.folder / "judgements.arrow")
    for query, document, grade in zip(*(column.to_pylist() for column in judgements.columns), strict=True):
        if grade > 0:
            grades[query][document] = grade
    return grades
