"""An eval set of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.tables import write_columns
from mnrl_job.system.files import sha256_of


@dataclass(frozen=True, slots=True)
class EvalSet:
    """An eval set as Arrow files in `folder`: queries, corpus, qrels. The hash is of the files it was read from.

    Queries without a relevant document are left out and counted (`unjudged_queries`). `own_documents` counts queries
    that are also in the corpus, under the same id. Unusable rows are counted by reason; `bad_rows` are the first of
    them.
    """

    name: str
    uri: str
    folder: Path
    queries: int
    documents: int
    judgements: int
    unjudged_queries: int
    sha256: str
    own_documents: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    bad_rows: tuple[BadRow, ...] = ()


@dataclass(frozen=True, slots=True)
class EvalData:
    """The texts of queries and corpus by id, and the relevance of (query id, document id).

    The queries in `in_corpus` are also documents, under the same id; these are excluded from their rankings. `titles`
    has the number of leading characters that are the title, of each document with one.
    """

    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    qrels: Mapping[tuple[str, str], int]
    in_corpus: frozenset[str] = frozenset()
    titles: Mapping[str, int] = field(default_factory=dict)


def write_evalset(name: str, uri: str, folder: Path, data: EvalData) -> EvalSet:
    """Write an eval set as Arrow files; their hash identifies it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_columns(
        folder / "queries.arrow",
        id=data.queries,
        text=data.queries.values(),
        in_corpus=(query in data.in_corpus for query in data.queries),
    )
    titles = (data.titles.get(document, 0) for document in data.corpus)
    write_columns(folder / "corpus.arrow", id=data.corpus, text=data.corpus.values(), title=titles)
    write_columns(
        folder / "qrels.arrow",
        query=(query for query, _ in data.qrels),
        document=(document for _, document in data.qrels),
        relevance=data.qrels.values(),
    )
    return EvalSet(
        name=name,
        uri=uri,
        folder=folder,
        queries=len(data.queries),
        documents=len(data.corpus),
        judgements=len(data.qrels),
        unjudged_queries=0,
        sha256=sha256_of(sorted(folder.glob("*.arrow"))),
        own_documents=len(data.in_corpus),
    )
