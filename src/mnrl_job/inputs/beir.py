"""The BEIR layout, as eval sets and training data share it: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.errors import DataError
from mnrl_job.inputs.rows import read_rows
from mnrl_job.records import BadRow


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


def text_of(row: dict[str, Any]) -> str | None:
    """The text of a query or document, its title before it; None where one of them is no text."""
    title, text = row.get("title") or "", row.get("text")
    return f"{title} {text}" if isinstance(title, str) and isinstance(text, str) else None


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
