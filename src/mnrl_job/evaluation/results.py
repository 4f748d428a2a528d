"""The results of an evaluation: means over the queries, and query by query."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class QueryResult:
    """How one query fared: `rank` (from 1) and `score` of its best-placed relevant document, the `top` documents."""

    query_id: str
    rank: int
    score: float
    metrics: dict[str, float]
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Means over the queries of one eval set; the queries one by one stand in the file `results`.

    `dimensions` has the means with embeddings cut to so many leading numbers, by their number.
    """

    name: str
    metrics: dict[str, float]
    results: Path
    seconds: float
    dimensions: dict[str, dict[str, float]] = field(default_factory=dict)


def read_results(path: Path) -> list[QueryResult]:
    """The results a worker wrote, one query a line."""
    adapter = TypeAdapter(QueryResult)
    with path.open("rb") as handle:
        return [adapter.validate_json(line) for line in handle]
