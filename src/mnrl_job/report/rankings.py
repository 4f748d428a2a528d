"""Rankings of each query before and after training: `rankings/NAME.jsonl`."""

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mnrl_job.evaluation.results import QueryResult
from mnrl_job.system.json_text import dumps
from mnrl_job.system.secrets import redacted


def write_rankings(path: Path, texts: Mapping[str, str], before: list[QueryResult], after: list[QueryResult]) -> None:
    """Write a line per query: its text, rank and score of the best relevant document, metrics, top documents.

    `texts` are those of the queries by id; `after` is empty without training.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as handle:
        for old, new in zip_longest(before, after):
            line = {"query_id": old.query_id, "query": texts[old.query_id], "before": _ranking(old)}
            if new is not None:
                line["after"] = _ranking(new)
            handle.write(dumps(redacted(line), ensure_ascii=False) + "\n")


def _ranking(query: QueryResult) -> dict[str, Any]:
    return {"rank": query.rank, "score": query.score, "metrics": query.metrics, "top": query.top}
