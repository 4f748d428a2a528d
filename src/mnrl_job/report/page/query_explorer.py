"""Per-query results: data for the table of the page, and the largest wins and losses as text."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.tables import read_table
from mnrl_job.report.page.formatting import TITLE_END, one_line, shorten, truncate
from mnrl_job.system.json_text import dumps
from mnrl_job.system.secrets import redact, redacted

MAX_QUERIES = 20_000
LISTED_CHANGES = 10
QUERY_CHARACTERS = 240
DOCUMENT_CHARACTERS = 200
MAX_SECRET_LENGTH = 500
# Escapes for JSON inside a script element, which no text may end.
SCRIPT_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True, slots=True)
class QueryRanking:
    """Result of a query: rank and score of its best relevant document, the metric, the text of the top document."""

    rank: int
    score: float
    value: float
    top: str


@dataclass(frozen=True, slots=True)
class QueryChange:
    """A query before and after training, with truncated texts; `relevant` is its most relevant document if known."""

    query: str
    relevant: str
    before: QueryRanking
    after: QueryRanking | None

    @property
    def gain(self) -> float:
        return self.after.value - self.before.value if self.after else 0.0


@dataclass(frozen=True, slots=True)
class Explorer:
    """The queries of an eval set; `data` is JSON for the table script of the page.

    `first` and `first_ten` count those with a relevant document there, before and after. `labels` name these two.
    """

    name: str
    metric: str
    queries: int
    shown: int
    compared: bool
    won: int
    lost: int
    first: tuple[int, ...]
    first_ten: tuple[int, ...]
    labels: tuple[str, str]
    wins: tuple[QueryChange, ...]
    losses: tuple[QueryChange, ...]
    data: Markup

    @property
    def tied(self) -> int:
        return self.queries - self.won - self.lost


def build_explorer(
    name: str,
    rankings: Iterable[dict[str, Any]],
    metric: str,
    eval_set: EvalSet | None = None,
    labels: tuple[str, str] = ("before", "after"),
) -> Explorer:
    """The queries of rankings; `metric` decides wins and losses. Without an eval set documents are named by id."""
    lines = [_select(line, metric) for line in rankings]
    compared = bool(lines and lines[0]["after"])
    sides = [[line[when]["rank"] for line in lines] for when in ("before", "after")[: 1 + compared]]
    gains = [line["after"]["value"] - line["before"]["value"] if line["after"] else 0.0 for line in lines]
    if len(lines) > MAX_QUERIES:
        largest = sorted(range(len(lines)), key=lambda index: -abs(gains[index]))[:MAX_QUERIES]
        lines = [lines[index] for index in sorted(largest)]
    changes = _with_texts(lines, eval_set)
    ordered = sorted((change for change in changes if change.gain), key=lambda change: change.gain)
    return Explorer(
        name=name,
        metric=metric,
        queries=len(gains),
        shown=len(changes),
        compared=compared,
        won=sum(gain > 0 for gain in gains),
        lost=sum(gain < 0 for gain in gains),
        first=tuple(sum(rank == 1 for rank in ranks) for ranks in sides),
        first_ten=tuple(sum(rank <= 10 for rank in ranks) for ranks in sides),
        labels=labels,
        wins=tuple(change for change in ordered[::-1][:LISTED_CHANGES] if change.gain > 0),
        losses=tuple(change for change in ordered[:LISTED_CHANGES] if change.gain < 0),
        data=in_script(_columns(changes, metric) | {"labels": labels}),
    )


def in_script(value: Any) -> Markup:
    """JSON that is safe inside a script element."""
    text = dumps(redacted(value), ensure_ascii=False, separators=(",", ":"))
    for character, escape in SCRIPT_ESCAPES.items():
        text = text.replace(character, escape)
    return Markup(text)  # noqa: S704 - HTML characters are escaped


def _select(line: dict[str, Any], metric: str) -> dict[str, Any]:
    rankings = {
        when: {"rank": side["rank"], "score": side["score"], "value": side["metrics"][metric], "top": side["top"][0][0]}
        for when in ("before", "after")
        if (side := line.get(when))
    }
    return {
        "id": line["query_id"],
        "query": line.get("query", line["query_id"]),  # the rankings of older runs have no texts
        "before": rankings["before"],
        "after": rankings.get("after"),
    }


def _with_texts(lines: list[dict[str, Any]], eval_set: EvalSet | None) -> list[QueryChange]:
    relevant: dict[str, str] = {}
    documents: dict[str, str] = {}
    if eval_set:
        relevant = _most_relevant(eval_set.folder / "qrels.arrow", {line["id"] for line in lines})
        tops = (line[when]["top"] for line in lines for when in ("before", "after") if line[when])
        documents = _document_texts(eval_set.folder, {*tops, *relevant.values()})

    def ranking(side: dict[str, Any]) -> QueryRanking:
        return QueryRanking(side["rank"], side["score"], side["value"], documents.get(side["top"], side["top"]))

    return [
        QueryChange(
            query=truncate(line["query"], QUERY_CHARACTERS),
            relevant=documents.get(relevant.get(line["id"], ""), ""),
            before=ranking(line["before"]),
            after=ranking(line["after"]) if line["after"] else None,
        )
        for line in lines
    ]


def _document_texts(folder: Path, ids: Iterable[str]) -> dict[str, str]:
    """The truncated texts of these ids without secrets; read one by one, as a corpus may be larger than memory.

    The title of a document ends with `TITLE_END`.
    """
    table, unique_ids = read_table(folder / "corpus.arrow"), list(ids)
    rows = pc.index_in(pa.array(unique_ids, table["id"].type), value_set=table["id"]).to_pylist()
    # Redact before truncating, as part of a secret might not be recognized.
    full = []
    for row in rows:
        text, title = table["text"][row].as_py()[: DOCUMENT_CHARACTERS + MAX_SECRET_LENGTH], table["title"][row].as_py()
        full.append(TITLE_END.join(part for part in (one_line(text[:title]), one_line(text[title:])) if part))
    texts = redact("\n".join(full)).split("\n")
    return (
        {key: shorten(text, DOCUMENT_CHARACTERS) for key, text in zip(unique_ids, texts, strict=True)}
        if unique_ids
        else {}
    )


def _most_relevant(path: Path, queries: set[str]) -> dict[str, str]:
    best: dict[str, tuple[int, str]] = {}
    for batch in read_table(path).to_batches():
        for query, document, grade in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if query in queries and (query not in best or grade > best[query][0]):
                best[query] = (grade, document)
    return {query: document for query, (_, document) in best.items()}


def _columns(changes: list[QueryChange], metric: str) -> dict[str, Any]:
    """The data by column, with each text once."""
    text_index: dict[str, int] = {}

    def index_of(text: str) -> int:
        return text_index.setdefault(text, len(text_index))

    def rows_of(rankings: Iterable[QueryRanking | None]) -> list[tuple[int, float, float, int]]:
        return [
            (side.rank, round(side.score, 3), round(side.value, 4), index_of(side.top)) for side in rankings if side
        ]

    columns: dict[str, Any] = {
        "metric": metric,
        "query": [change.query for change in changes],
        "relevant": [index_of(change.relevant) for change in changes],
    }
    for when in ("before", "after"):
        if rows := rows_of(getattr(change, when) for change in changes):
            columns[when] = dict(zip(("rank", "score", "value", "top"), zip(*rows, strict=True), strict=True))
    return columns | {"texts": list(text_index)}
