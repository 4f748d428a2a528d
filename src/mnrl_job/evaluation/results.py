"""Results of an evaluation: means over the queries, and per query."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Result of one query: `rank` (from 1) and `score` of its highest-ranked relevant document, the `top` documents."""

    query_id: str
    rank: int
    score: float
    metrics: dict[str, float]
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean metrics over the queries of an eval set; the file `results` has those of each query.

    `dimensions` has the mean metrics of truncated embeddings, by number of dimensions.
    """

    name: str
    metrics: dict[str, float]
    results: Path
    seconds: float
    dimensions: dict[str, dict[str, float]] = field(default_factory=dict)


def read_results(path: Path) -> list[QueryResult]:
    """Read the results that a worker wrote, one line per query."""
    adapter = TypeAdapter(QueryResult)
    with path.open("rb") as handle:
        return [adapter.validate_json(line) for line in handle]
