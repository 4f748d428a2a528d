"""Query by query: all changes as data for the table of the page, the largest wins and losses as text."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.tables import read_table
from mnrl_job.report.page.formatting import cut, one_line
from mnrl_job.system.json_text import dumps
from mnrl_job.system.secrets import redact, redacted

QUERIES_SHOWN = 20_000
CHANGES_TOLD = 10
QUERY_CHARACTERS = 240
DOCUMENT_CHARACTERS = 200
LONGEST_SECRET = 500
# Of JSON inside a script element, so that no text can end it.
ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True, slots=True)
class Placing:
    """How a query fared once: rank and score of its best relevant document, the metric, the document found first."""

    rank: int
    score: float
    value: float
    top: str


@dataclass(frozen=True, slots=True)
class Change:
    """One query before and after, with texts, shortened. No `after`: nothing was trained."""

    query: str
    wanted: str
    before: Placing
    after: Placing | None

    @property
    def gain(self) -> float:
        return self.after.value - self.before.value if self.after else 0.0


@dataclass(frozen=True, slots=True)
class Explorer:
    """The queries of one eval set, counted; `data` is the JSON that the page's script makes a table of."""

    name: str
    metric: str
    queries: int
    shown: int
    compared: bool
    won: int
    lost: int
    wins: tuple[Change, ...]
    losses: tuple[Change, ...]
    data: Markup

    @property
    def tied(self) -> int:
        return self.queries - self.won - self.lost


def explore(rankings: Path, eval_set: EvalSet, metric: str) -> Explorer:
    """Read the rankings of an eval set, and the texts they speak of.

    Args:
        rankings: the file of this eval set.
        eval_set: where the texts are.
        metric: what won and lost mean.
    """
    with rankings.open("rb") as handle:
        lines = [_line(json.loads(line), metric) for line in handle]
    compared = bool(lines and lines[0]["after"])
    gains = [_gain(line) for line in lines]
    if len(lines) > QUERIES_SHOWN:
        largest = sorted(range(len(lines)), key=lambda at: -abs(gains[at]))[:QUERIES_SHOWN]
        lines = [lines[at] for at in sorted(largest)]
    changes = _with_texts(lines, eval_set)
    ordered = sorted((one for one in changes if one.gain), key=lambda one: one.gain)
    return Explorer(
        name=eval_set.name,
        metric=metric,
        queries=len(gains),
        shown=len(changes),
        compared=compared,
        won=sum(gain > 0 for gain in gains),
        lost=sum(gain < 0 for gain in gains),
        wins=tuple(one for one in ordered[::-1][:CHANGES_TOLD] if one.gain > 0),
        losses=tuple(one for one in ordered[:CHANGES_TOLD] if one.gain < 0),
        data=in_script(_columns(changes, metric)),
    )


def in_script(value: Any) -> Markup:
    """JSON that can stand inside a script element, whatever its texts hold."""
    text = dumps(redacted(value), ensure_ascii=False, separators=(",", ":"))
    for sign, escaped in ESCAPED.items():
        text = text.replace(sign, escaped)
    return Markup(text)  # noqa: S704 - nothing of HTML is left in it


def _line(line: dict[str, Any], metric: str) -> dict[str, Any]:
    """Of a line of the rankings what is needed."""
    placings = {
        when: {"rank": one["rank"], "score": one["score"], "value": one["metrics"][metric], "top": one["top"][0][0]}
        for when in ("before", "after")
        if (one := line.get(when))
    }
    return {"query": line["query_id"], "before": placings["before"], "after": placings.get("after")}


def _gain(line: dict[str, Any]) -> float:
    return float(line["after"]["value"] - line["before"]["value"]) if line["after"] else 0.0


def _with_texts(lines: list[dict[str, Any]], eval_set: EvalSet) -> list[Change]:
    queries = _texts(eval_set.folder / "queries.arrow", (line["query"] for line in lines), QUERY_CHARACTERS)
    wanted = _wanted(eval_set.folder / "qrels.arrow", set(queries))
    tops = (line[when]["top"] for line in lines for when in ("before", "after") if line[when])
    documents = _texts(eval_set.folder / "corpus.arrow", {*tops, *wanted.values()}, DOCUMENT_CHARACTERS)

    def placing(one: dict[str, Any]) -> Placing:
        return Placing(one["rank"], one["score"], one["value"], documents[one["top"]])

    return [
        Change(
            query=queries[line["query"]],
            wanted=documents[wanted[line["query"]]],
            before=placing(line["before"]),
            after=placing(line["after"]) if line["after"] else None,
        )
        for line in lines
    ]


def _texts(path: Path, ids: Iterable[str], characters: int) -> dict[str, str]:
    """The texts of these ids, shortened, without secrets; read one by one, as a corpus may be larger than memory."""
    table, wanted = read_table(path), list(dict.fromkeys(ids))
    rows = pc.index_in(pa.array(wanted, table["id"].type), value_set=table["id"]).to_pylist()
    # Starred out before they are cut: half a secret would not be known for one.
    whole = [one_line(table["text"][row].as_py()[: characters + LONGEST_SECRET]) for row in rows]
    texts = redact("\n".join(whole)).split("\n")
    return {one: cut(text, characters) for one, text in zip(wanted, texts, strict=True)} if wanted else {}


def _wanted(path: Path, queries: set[str]) -> dict[str, str]:
    """For each query the most relevant document."""
    best: dict[str, tuple[int, str]] = {}
    for batch in read_table(path).to_batches():
        for query, document, grade in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if query in queries and (query not in best or grade > best[query][0]):
                best[query] = (grade, document)
    return {query: document for query, (_, document) in best.items()}


def _columns(changes: list[Change], metric: str) -> dict[str, Any]:
    """Column by column, each text once."""
    number: dict[str, int] = {}

    def text(of: str) -> int:
        return number.setdefault(of, len(number))

    def placings(some: Iterable[Placing | None]) -> Iterator[tuple[int, float, float, int]]:
        return ((one.rank, round(one.score, 3), round(one.value, 4), text(one.top)) for one in some if one)

    columns: dict[str, Any] = {
        "metric": metric,
        "query": [one.query for one in changes],
        "wanted": [text(one.wanted) for one in changes],
    }
    for when, some in (("before", [one.before for one in changes]), ("after", [one.after for one in changes])):
        if rows := list(placings(some)):
            columns[when] = dict(zip(("rank", "score", "value", "top"), zip(*rows, strict=True), strict=True))
    return columns | {"texts": list(number)}
