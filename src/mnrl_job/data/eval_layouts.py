"""The two layouts of an eval set: a BEIR folder, and one JSON file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.data.beir import BeirFolder, Passage, Qrel, find_beir_folder
from mnrl_job.data.clean_text import clean_text, type_name
from mnrl_job.data.file_formats.common import BadRow, is_unicode
from mnrl_job.data.file_formats.opening import READ_ERRORS, open_bytes
from mnrl_job.errors import DataError

JSON_PARTS = ("queries", "corpus", "relevant_docs")
EXPECTED = (
    "an eval set is a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv (each may be .gz), or one JSON file"
)


def find_layout(root: Path, files: tuple[Path, ...]) -> "Layout":
    """The layout of the folder `root`, or of the one file.

    Raises:
        DataError: a file is missing, or a JSON file has another shape.
    """
    if root.is_dir():
        return find_beir_folder(root, "test", EXPECTED)
    path = files[0]
    if len(files) > 1 or not path.name.endswith((".json", ".json.gz")):
        raise DataError(f"{path}: {EXPECTED}")
    return JsonFile(path, *_read_json(path))


@dataclass(frozen=True, slots=True)
class JsonFile:
    """An eval set in one JSON file: texts by id, and of each query a list of document ids, or scores by document id."""

    path: Path
    query_texts: dict[str, Any]
    document_texts: dict[str, Any]
    relevant_docs: dict[str, Any]

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def qrels_file(self) -> Path:
        return self.path

    queries_file = corpus_file = qrels_file

    def queries(self) -> Iterator[Passage | BadRow]:
        return self._passages("queries", self.query_texts)

    def corpus(self) -> Iterator[Passage | BadRow]:
        return self._passages("corpus", self.document_texts)

    def _passages(self, part: str, texts: dict[str, Any]) -> Iterator[Passage | BadRow]:
        for identifier, value in texts.items():
            name = f"{part}[{identifier!r}]"
            text = clean_text(value, name, str(self.path))
            if not is_unicode(identifier):
                yield BadRow(str(self.path), "not UTF-8", f"an id of {part} contains an unpaired surrogate")
            else:
                yield text if isinstance(text, BadRow) else Passage(f"{self.path}: {name}", identifier, text, text)

    def qrels(self) -> Iterator[Qrel | BadRow]:
        for query, documents in self.relevant_docs.items():
            where = f"{self.path}: relevant_docs[{query!r}]"
            if isinstance(documents, dict):
                for document, score in documents.items():
                    yield Qrel(where, query, document, score)
            elif isinstance(documents, list):
                for document in documents:
                    yield _unscored_qrel(where, query, document)
            else:
                yield BadRow(
                    where, "invalid judgments", "expected a list of ids, or an object of ids and integer scores"
                )


# An eval set that is not read yet. Each row is yielded, or why it is unusable.
Layout = BeirFolder | JsonFile


def _read_json(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    try:
        with open_bytes(path) as file:
            content = json.load(file, object_pairs_hook=_refuse_ambiguous_keys)
    except (ValueError, RecursionError, *READ_ERRORS) as error:
        raise DataError(f"{path}: invalid JSON: {error}") from error
    parts = [content.get(name) for name in JSON_PARTS] if isinstance(content, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise DataError(f"{path}: expected a JSON object with the objects {', '.join(JSON_PARTS)}")
    queries, corpus, relevant_docs = (dict(part) for part in parts if part is not None)
    return queries, corpus, relevant_docs


def _refuse_ambiguous_keys(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python's parser would silently keep the last of several members with the same key."""
    content: dict[str, Any] = {}
    for name, value in members:
        if name in content and content[name] != value:
            raise ValueError(f"duplicate key {name!r} with different values")
        content[name] = value
    return content


def _unscored_qrel(where: str, query: str, document: object) -> Qrel | BadRow:
    if isinstance(document, str) or type(document) is int:
        return Qrel(where, query, str(document), 1)
    return BadRow(where, "not text", f"an id is of type {type_name(document)}; expected text or an integer")
