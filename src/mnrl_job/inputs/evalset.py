"""From a BEIR folder or a JSON file to queries, corpus and judgements, checked and written as Arrow."""

import json
from pathlib import Path
from typing import Any

from mnrl_job.errors import DataError
from mnrl_job.inputs.beir import find_parts, read_judgements, text_of
from mnrl_job.inputs.fetch import Fetched
from mnrl_job.inputs.formats.common import is_unicode
from mnrl_job.inputs.rows import DAMAGE, open_bytes, read_rows
from mnrl_job.records import BadRow, EvalSet
from mnrl_job.runtime.files import sha256_of
from mnrl_job.runtime.logs import warn
from mnrl_job.runtime.tables import write_columns

Texts = dict[str, str]
Grades = dict[tuple[str, str], int]

# More than anybody means, and less than a column can hold.
HIGHEST_GRADE = 1_000_000_000
JSON_PARTS = ("queries", "corpus", "relevant_docs")
EXPECTED = (
    "an eval set is a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv (each may be .gz), or one JSON file"
)


def read_evalset(source: Fetched, folder: Path) -> EvalSet:
    """Read an eval set and write `queries.arrow`, `corpus.arrow` and `judgements.arrow` into `folder`.

    Queries without a judged relevant document are left out and counted: no metric is defined for them.

    Raises:
        DataError: a part is missing or empty, an id is unknown or repeated, a text or a grade is unusable.
    """
    with source.named():
        if source.root.is_dir():
            files, queries, corpus, grades = _read_beir(source.root)
        else:
            files, queries, corpus, grades = _read_json(source.files)
        _check(source.uri, queries, corpus, grades)
    judged = {query for (query, _), grade in grades.items() if grade > 0}
    if unjudged := len(queries) - len(judged):
        warn(f"{source.name}: {unjudged} of {len(queries)} queries have no relevant document and are left out")
    queries = {query: text for query, text in queries.items() if query in judged}
    relevant = {pair: grade for pair, grade in grades.items() if pair[0] in judged}
    return write_evalset(source.name, source.uri, folder, queries, corpus, relevant, sha256_of(files), unjudged)


def write_evalset(
    name: str,
    uri: str,
    folder: Path,
    queries: Texts,
    corpus: Texts,
    grades: Grades,
    sha256: str | None = None,
    unjudged: int = 0,
) -> EvalSet:
    """Write a checked eval set as Arrow files. Without files of its own it is known by the hash of what is written."""
    folder.mkdir(parents=True, exist_ok=True)
    write_columns(folder / "queries.arrow", id=queries, text=queries.values())
    write_columns(folder / "corpus.arrow", id=corpus, text=corpus.values())
    write_columns(
        folder / "judgements.arrow",
        query=(query for query, _ in grades),
        document=(document for _, document in grades),
        grade=grades.values(),
    )
    sha256 = sha256 or sha256_of(sorted(folder.glob("*.arrow")))
    return EvalSet(name, uri, folder, len(queries), len(corpus), len(grades), unjudged, sha256)


def _read_beir(root: Path) -> tuple[list[Path], Texts, Texts, Grades]:
    corpus, queries, qrels = find_parts(root, "test", EXPECTED)
    return [corpus, queries, qrels], _beir_texts(queries), _beir_texts(corpus), _beir_grades(qrels)


def _beir_texts(path: Path) -> Texts:
    texts: Texts = {}
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        if isinstance(row, BadRow):
            raise DataError(f"{where}: {row.reason}: {row.detail}")
        identifier, text = row.get("_id"), text_of(row)
        if not isinstance(identifier, str) or text is None:
            raise DataError(f"{where}: expected the text fields _id and text; found {', '.join(row) or 'nothing'}")
        _add(texts, identifier, text, where)
    return texts


def _beir_grades(path: Path) -> Grades:
    grades: Grades = {}
    for one in read_judgements(path):
        if isinstance(one, BadRow):
            raise DataError(f"{one.where}: {one.reason}: {one.detail}")
        grade = _whole(one.score)
        if grade is None:
            raise DataError(f"{one.where}: score {one.score!r} is not a whole number up to {HIGHEST_GRADE}")
        before = grades.setdefault((one.query, one.document), grade)
        if before != grade:
            raise DataError(
                f"{one.where}: {one.document!r} is judged {grade} for {one.query!r}, but {before} further up; keep one"
            )
    return grades


def _whole(score: str | float) -> int | None:
    """A grade, which may be written as 1.0, too; None for what is none."""
    try:
        number = float(score)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and abs(number) <= HIGHEST_GRADE else None


def _read_json(files: tuple[Path, ...]) -> tuple[list[Path], Texts, Texts, Grades]:
    path = files[0]
    if len(files) > 1 or not path.name.endswith((".json", ".json.gz")):
        raise DataError(f"{path}: {EXPECTED}")
    try:
        with open_bytes(path) as handle:
            content = json.load(handle, object_pairs_hook=_each_once)
    except (ValueError, RecursionError, *DAMAGE) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    parts = [content.get(name) for name in JSON_PARTS] if isinstance(content, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise DataError(f"{path}: expected an object with the objects {', '.join(JSON_PARTS)}")
    queries, corpus, relevant = (dict(part) for part in parts if part is not None)
    grades = _json_grades(path, relevant)
    return [path], _json_texts(path, "queries", queries), _json_texts(path, "corpus", corpus), grades


def _each_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Of members that share a name Python would keep the last, without a word."""
    content: dict[str, Any] = {}
    for name, value in members:
        if name in content and content[name] != value:
            raise ValueError(f"{name!r} stands twice in one object, with different contents")
        content[name] = value
    return content


def _json_texts(path: Path, part: str, content: dict[str, Any]) -> Texts:
    texts: Texts = {}
    for identifier, text in content.items():
        if not isinstance(text, str):
            raise DataError(f"{path}: {part}[{identifier!r}] is of type {type(text).__name__}; expected text")
        _add(texts, identifier, text, f"{path}: {part}")
    return texts


def _json_grades(path: Path, content: dict[str, Any]) -> Grades:
    """`relevant_docs` maps a query to a list of documents, or to documents with grades."""
    grades: Grades = {}
    for query, documents in content.items():
        graded = _graded(documents)
        if graded is None:
            raise DataError(
                f"{path}: relevant_docs[{query!r}]: expected a list of ids, or ids with whole-number grades"
            )
        grades |= {(query, document): grade for document, grade in graded.items()}
    return grades


def _graded(documents: Any) -> dict[str, int] | None:
    """The grades of a query's documents; None where they are written in no way we know."""
    if isinstance(documents, list):
        return {str(document): 1 for document in documents}
    if not isinstance(documents, dict):
        return None
    grades = {document: _whole(grade) for document, grade in documents.items() if type(grade) in (int, float)}
    whole = {document: grade for document, grade in grades.items() if grade is not None}
    return whole if len(whole) == len(documents) else None


def _add(texts: Texts, identifier: str, text: str, where: str) -> None:
    if identifier in texts:
        raise DataError(f"{where}: id {identifier!r} stands twice; ids must be unique")
    if not is_unicode(identifier + text):
        raise DataError(f"{where}: the text of {identifier!r} is not UTF-8; it holds half a character")
    if not text.strip():
        raise DataError(f"{where}: the text of {identifier!r} is empty")
    texts[identifier] = text.strip()


def _check(uri: str, queries: Texts, corpus: Texts, grades: Grades) -> None:
    for name, part in (("queries", queries), ("corpus", corpus), ("judgements", grades)):
        if not part:
            raise DataError(f"{uri}: the eval set has no {name}")
    for kind, known, position in (("query", queries, 0), ("document", corpus, 1)):
        unknown = [pair[position] for pair in grades if pair[position] not in known]
        if unknown:
            raise DataError(
                f"{uri}: {len(unknown)} judgement(s) name a {kind} that is not there, the first is {unknown[0]!r}"
            )
    if not any(grade > 0 for grade in grades.values()):
        raise DataError(f"{uri}: no judgement has a score above 0; nothing is relevant")
