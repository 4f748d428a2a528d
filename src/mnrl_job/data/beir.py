"""The BEIR layout of eval sets and training data: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

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
    """A query or document. `text` is what is embedded: the title, if any, followed by `untitled`."""

    where: str
    identifier: str
    text: str
    untitled: str


@dataclass(frozen=True, slots=True)
class Qrel:
    """A relevance judgment. The score is not parsed yet: training data and eval sets accept different values."""

    where: str
    query: str
    document: str
    score: str | float


@dataclass(frozen=True, slots=True)
class BeirFolder:
    """The files of a folder in BEIR layout."""

    corpus_file: Path
    queries_file: Path
    qrels_file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.corpus_file, self.queries_file, self.qrels_file)

    def queries(self) -> Iterator[Passage | BadRow]:
        return _read_passages(self.queries_file)

    def corpus(self) -> Iterator[Passage | BadRow]:
        return _read_passages(self.corpus_file)

    def qrels(self) -> Iterator[Qrel | BadRow]:
        """Yield each judgment, or why its line is unusable.

        Raises:
            DataError: a column is missing, or the file is damaged.
        """
        for line, row in read_rows(self.qrels_file):
            yield row if isinstance(row, BadRow) else _parse_qrel(f"{self.qrels_file}:{line}", row)


def find_file(root: Path, name: str) -> Path | None:
    """A file of the layout, plain or gzipped."""
    return next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)


def find_beir_folder(root: Path, split: str, expected: str) -> BeirFolder:
    """The files of one split below `root`.

    Raises:
        DataError: a file is missing; the message ends with `expected`.
    """
    corpus, queries, qrels = (
        _require_file(root, name, expected) for name in ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv")
    )
    return BeirFolder(corpus, queries, qrels)


def read_ids(path: Path) -> Iterator[tuple[str, dict[str, Any], str | BadRow]]:
    """Yield the location of each query or document, its row, and its id or why it is unusable."""
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        yield (where, {}, row) if isinstance(row, BadRow) else (where, row, _parse_id(row, where))


def _parse_id(row: dict[str, Any], where: str) -> str | BadRow:
    """The id, an integer as text, or why it is unusable."""
    if "_id" not in row:
        return BadRow(where, "missing column", f"_id; found {', '.join(row) or 'nothing'}")
    value = row["_id"]
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        return BadRow(where, "not text", f"_id is of type {type_name(value)}; expected text or an integer")
    return value if is_unicode(value) else BadRow(where, "not UTF-8", "_id contains an unpaired surrogate")


def parse_passage(row: dict[str, Any], identifier: str, where: str) -> Passage | BadRow:
    """A query or document with its title before its text, or why it is unusable."""
    title, text = row.get("title"), row.get("text")
    if title is None or _is_nan(title):  # pandas writes NaN for an empty cell
        title = ""
    if not isinstance(title, str):
        return BadRow(where, "not text", f"title of {identifier!r} is of type {type(title).__name__}")
    if "text" not in row:
        return BadRow(where, "missing column", f"text of {identifier!r}; found {', '.join(row)}")
    if not isinstance(text, str):
        text = None if _is_nan(text) else text
    titled = clean_text(f"{title} {text}" if isinstance(text, str) else text, f"text of {identifier!r}", where)
    return titled if isinstance(titled, BadRow) else Passage(where, identifier, titled, str(text).strip())


def _require_file(root: Path, name: str, expected: str) -> Path:
    if path := find_file(root, name):
        return path
    raise DataError(f"{root}: {name} is missing; {expected}")


def _read_passages(path: Path) -> Iterator[Passage | BadRow]:
    for where, row, identifier in read_ids(path):
        yield identifier if isinstance(identifier, BadRow) else parse_passage(row, identifier, where)


def _parse_qrel(where: str, row: dict[str, Any]) -> Qrel:
    try:
        return Qrel(where, row["query-id"], row["corpus-id"], row["score"])
    except KeyError as error:
        raise DataError(
            f"{where}: column {error} is missing; found {', '.join(row)}; expected query-id, corpus-id, score"
        ) from None


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
