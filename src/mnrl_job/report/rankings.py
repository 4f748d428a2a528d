"""Query by query, before against after: `rankings/NAME.jsonl`."""

from itertools import zip_longest
from pathlib import Path
from typing import Any

from mnrl_job.evaluation.results import QueryResult
from mnrl_job.system.json_text import dumps


def write_rankings(path: Path, before: list[QueryResult], after: list[QueryResult]) -> None:
    """One line a query: rank and score of its best relevant document, its metrics and its top documents.

    `after` is empty where nothing was trained.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as handle:
        for old, new in zip_longest(before, after):
            line = {"query_id": old.query_id, "before": _placing(old)}
            if new is not None:
                line["after"] = _placing(new)
            handle.write(dumps(line, ensure_ascii=False) + "\n")


def _placing(query: QueryResult) -> dict[str, Any]:
    return {"rank": query.rank, "score": query.score, "metrics": query.metrics, "top": query.top}
