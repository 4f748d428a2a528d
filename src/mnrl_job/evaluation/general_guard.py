"""The general guard: a bundled set of general search, whose score shows whether training made the model forget."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnrl_job.config.evaluation_settings import GENERAL_SEARCH
from mnrl_job.data.beir import Passage, Qrel, find_beir_folder
from mnrl_job.data.evalset import EvalData, EvalSet, write_evalset
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.system.files import sha256_of

FOLDER = Path(__file__).with_name("general_search")


# A base model below this, such as one for German or for code, is not judged by the guard.
MIN_BASE_SCORE = 0.5


def read_general_search(folder: Path, reported: bool = True) -> EvalSet:
    """Write half of the queries and the corpus as an eval set into `folder`.

    Queries with odd numbers are reported; weights are selected on the others, so that the reported score stays
    unbiased.
    """
    files = find_beir_folder(FOLDER, "test", "install mnrl-job again")
    queries = {
        query.identifier: query.text
        for query in _passages(files.queries())
        if _is_reported(query.identifier) == reported
    }
    corpus = {document.identifier: document.text for document in _passages(files.corpus())}
    qrels = {
        (qrel.query, qrel.document): int(qrel.score)
        for qrel in files.qrels()
        if isinstance(qrel, Qrel) and qrel.query in queries
    }
    eval_set = write_evalset(GENERAL_SEARCH, f"mnrl-job:{GENERAL_SEARCH}", folder, EvalData(queries, corpus, qrels))
    return replace(eval_set, sha256=sha256_of(files.files))


def _passages(rows: Iterable[Passage | BadRow]) -> Iterator[Passage]:
    return (row for row in rows if isinstance(row, Passage))


def _is_reported(query_id: str) -> bool:
    """Whether a query's number, at the end of its id, is odd."""
    return int(query_id.rpartition("-")[2]) % 2 == 1


def guard_metric(metrics: Iterable[str]) -> str:
    """The metric of the guard: of those given, the nDCG whose cutoff is nearest to 10."""
    names = (name for name in metrics if name.startswith("ndcg@"))
    return min(names, key=lambda name: abs(int(name.rpartition("@")[2]) - 10))


def guard_summary(evaluation: Mapping[str, Any]) -> str:
    """The guard in a few words, as in `general search: 0.56 → 0.55`; empty without it.

    Args:
        evaluation: the entry of that name in `metrics.json`.
    """
    if GENERAL_SEARCH not in evaluation:
        return ""
    scores = evaluation[GENERAL_SEARCH]
    metric = guard_metric(scores["before"])
    after = f" → {scores['after'][metric]:.2f}" if scores["after"] else ""
    return f"general search: {scores['before'][metric]:.2f}{after}"
