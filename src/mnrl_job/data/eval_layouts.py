"""The two layouts of an eval set, read alike: a BEIR folder, and one JSON file. Each row is usable, or told why not."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mnrl_job.data.beir import Passage, find_parts, id_of, passage_of, read_judgements
from mnrl_job.data.clean_text import clean_text, type_name
from mnrl_job.data.file_formats.common import BadRow, is_unicode
from mnrl_job.data.file_formats.opening import READ_ERRORS, open_bytes
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.errors import DataError

# More than anybody means, and less than a column can hold.
HIGHEST_GRADE = 1_000_000_000
JSON_PARTS = ("queries", "corpus", "relevant_docs")
EXPECTED = (
    "an eval set is a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv (each may be .gz), or one JSON file"
)


@dataclass(frozen=True, slots=True)
class Graded:
    """That a document is judged for a query; a grade above 0 means that it is relevant."""

    where: str
    query: str
    document: str
    grade: int


class Layout(Protocol):
    """An eval set, found and not yet read."""

    @property
    def files(self) -> tuple[Path, ...]: ...

    def queries(self) -> Iterator[Passage | BadRow]: ...

    def corpus(self) -> Iterator[Passage | BadRow]: ...

    def judgements(self) -> Iterator[Graded | BadRow]: ...


def find_layout(root: Path, files: tuple[Path, ...]) -> Layout:
    """The layout of the folder `root`, or of the one file.

    Raises:
        DataError: a part is missing, or the file is no JSON of this kind.
    """
    if root.is_dir():
        return BeirFolder(*find_parts(root, "test", EXPECTED))
    path = files[0]
    if len(files) > 1 or not path.name.endswith((".json", ".json.gz")):
        raise DataError(f"{path}: {EXPECTED}")
    return JsonFile(path, *_json_parts(path))


@dataclass(frozen=True, slots=True)
class BeirFolder:
    """The files of a folder in BEIR layout."""

    corpus_file: Path
    queries_file: Path
    qrels: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.corpus_file, self.queries_file, self.qrels)

    def queries(self) -> Iterator[Passage | BadRow]:
        return _passages(self.queries_file)

    def corpus(self) -> Iterator[Passage | BadRow]:
        return _passages(self.corpus_file)

    def judgements(self) -> Iterator[Graded | BadRow]:
        for one in read_judgements(self.qrels):
            yield one if isinstance(one, BadRow) else _graded(one.where, one.query, one.document, one.score)


def _passages(path: Path) -> Iterator[Passage | BadRow]:
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        identifier = row if isinstance(row, BadRow) else id_of(row, where)
        if isinstance(row, BadRow):
            yield row
        elif isinstance(identifier, BadRow):
            yield identifier
        else:
            yield passage_of(row, identifier, where)


@dataclass(frozen=True, slots=True)
class JsonFile:
    """The parts of one JSON file. `relevant` maps a query to a list of documents, or to documents with grades."""

    path: Path
    asked: dict[str, Any]
    documents: dict[str, Any]
    relevant: dict[str, Any]

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def queries(self) -> Iterator[Passage | BadRow]:
        return self._passages("queries", self.asked)

    def corpus(self) -> Iterator[Passage | BadRow]:
        return self._passages("corpus", self.documents)

    def _passages(self, part: str, content: dict[str, Any]) -> Iterator[Passage | BadRow]:
        for identifier, value in content.items():
            name = f"{part}[{identifier!r}]"
            text = clean_text(value, name, str(self.path))
            if not is_unicode(identifier):
                yield BadRow(str(self.path), "not UTF-8", f"an id of {part} contains an unpaired surrogate")
            else:
                yield text if isinstance(text, BadRow) else Passage(f"{self.path}: {name}", identifier, text, text)

    def judgements(self) -> Iterator[Graded | BadRow]:
        for query, documents in self.relevant.items():
            where = f"{self.path}: relevant_docs[{query!r}]"
            if isinstance(documents, dict):
                for document, grade in documents.items():
                    yield _graded(where, query, document, grade)
            elif isinstance(documents, list):
                for document in documents:
                    yield _listed(where, query, document)
            else:
                yield BadRow(
                    where, "invalid judgements", "expected a list of ids, or an object of ids and integer grades"
                )


def _json_parts(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    try:
        with open_bytes(path) as handle:
            content = json.load(handle, object_pairs_hook=_each_once)
    except (ValueError, RecursionError, *READ_ERRORS) as error:
        raise DataError(f"{path}: invalid JSON: {error}") from error
    parts = [content.get(name) for name in JSON_PARTS] if isinstance(content, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise DataError(f"{path}: expected a JSON object with the objects {', '.join(JSON_PARTS)}")
    queries, corpus, relevant = (dict(part) for part in parts if part is not None)
    return queries, corpus, relevant


def _each_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Of members that share a name Python would keep the last, without a word."""
    content: dict[str, Any] = {}
    for name, value in members:
        if name in content and content[name] != value:
            raise ValueError(f"duplicate key {name!r} with different values")
        content[name] = value
    return content


def _listed(where: str, query: str, document: object) -> Graded | BadRow:
    """A document that is relevant without a grade."""
    if isinstance(document, str) or type(document) is int:
        return Graded(where, query, str(document), 1)
    return BadRow(where, "not text", f"an id is of type {type_name(document)}; expected text or an integer")


def _graded(where: str, query: str, document: str, grade: str | float) -> Graded | BadRow:
    """A judgement whose grade may be written as 1.0, too."""
    try:
        number = float("nan" if isinstance(grade, bool) else grade)
    except (ValueError, TypeError, OverflowError):
        number = float("nan")
    if number.is_integer() and abs(number) <= HIGHEST_GRADE:
        return Graded(where, query, document, int(number))
    return BadRow(where, "invalid score", f"score {grade!r} of {document!r} is not an integer up to {HIGHEST_GRADE}")
