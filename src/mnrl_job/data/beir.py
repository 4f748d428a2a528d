"""The BEIR layout, as eval sets and training data share it: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.data.clean_text import clean_text, type_name
from mnrl_job.data.file_formats.common import BadRow, is_unicode
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.errors import DataError


@dataclass(frozen=True, slots=True)
class Passage:
    """A query or document. `text` is what is embedded, the title before it; `untitled` is the text by itself."""

    where: str
    identifier: str
    text: str
    untitled: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of the judgements, as it stands there: what a score may be differs between uses."""

    where: str
    query: str
    document: str
    score: str


def find_part(root: Path, name: str) -> Path | None:
    """A file of the layout, plain or gzipped."""
    return next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)


def find_parts(root: Path, split: str, expected: str) -> tuple[Path, Path, Path]:
    """Corpus, queries and judgements.

    Raises:
        DataError: one is missing; it tells what was `expected`.
    """
    corpus, queries, qrels = (
        _needed(root, name, expected) for name in ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv")
    )
    return corpus, queries, qrels


def _needed(root: Path, name: str, expected: str) -> Path:
    if path := find_part(root, name):
        return path
    raise DataError(f"{root}: {name} is missing; {expected}")


def id_of(row: dict[str, Any], where: str) -> str | BadRow:
    """The id of a query or document, a whole number as text, or why it is none."""
    if "_id" not in row:
        return BadRow(where, "missing column", f"_id; found {', '.join(row) or 'nothing'}")
    value = row["_id"]
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        return BadRow(where, "not text", f"_id is of type {type_name(value)}; expected text or an integer")
    return value if is_unicode(value) else BadRow(where, "not UTF-8", "_id contains an unpaired surrogate")


def passage_of(row: dict[str, Any], identifier: str, where: str) -> Passage | BadRow:
    """The text of a query or document, its title before it, or why it is unusable."""
    title, text = row.get("title"), row.get("text")
    if title is None or _is_nan(title):  # pandas writes NaN for an empty cell
        title = ""
    if not isinstance(title, str):
        return BadRow(where, "not text", f"title of {identifier!r} is of type {type(title).__name__}")
    if "text" not in row:
        return BadRow(where, "missing column", f"text of {identifier!r}; found {', '.join(row)}")
    if not isinstance(text, str):
        text = None if _is_nan(text) else text
    whole = clean_text(f"{title} {text}" if isinstance(text, str) else text, f"text of {identifier!r}", where)
    return whole if isinstance(whole, BadRow) else Passage(where, identifier, whole, str(text).strip())


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def read_judgements(path: Path) -> Iterator[Judgement | BadRow]:
    """Yield each judgement, or why its line is none.

    Raises:
        DataError: a column is missing, or the file is damaged.
    """
    for line, row in read_rows(path):
        yield row if isinstance(row, BadRow) else _judgement(f"{path}:{line}", row)


def _judgement(where: str, row: dict[str, Any]) -> Judgement:
    try:
        return Judgement(where, row["query-id"], row["corpus-id"], row["score"])
    except KeyError as error:
        raise DataError(
            f"{where}: column {error} is missing; found {', '.join(row)}; expected query-id, corpus-id, score"
        ) from None
