"""Read an eval set from a BEIR folder or a JSON file, check it and write it as Arrow."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from mnrl_job.data.beir import Passage, Qrel
from mnrl_job.data.eval_layouts import Layout, find_layout
from mnrl_job.data.evalset import EvalData, EvalSet, write_evalset
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.missing_values import is_missing_value
from mnrl_job.data.row_counts import LOGGED_BAD_ROWS, RECORDED_BAD_ROWS, count_reasons, describe_bad_rows
from mnrl_job.data.sources import LocalSource
from mnrl_job.errors import DataError
from mnrl_job.system.files import sha256_of
from mnrl_job.system.logs import log, warn

Row = TypeVar("Row", Passage, Qrel)

# Scores above this are certainly mistakes.
MAX_RELEVANCE = 1_000_000_000


@dataclass(slots=True)
class _RowChecker:
    """Counts the rows of one part of an eval set, and records the unusable ones."""

    part: str
    source: LocalSource
    rows_read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    bad_rows: list[BadRow] = field(default_factory=list)

    def usable(self, rows: Iterable[Row | BadRow]) -> Iterator[Row]:
        for row in rows:
            self.rows_read += 1
            if isinstance(row, BadRow):
                self.reject(row)
            else:
                yield row

    def reject(self, bad_row: BadRow) -> None:
        self.rejected[bad_row.reason] += 1
        if len(self.bad_rows) < RECORDED_BAD_ROWS:
            self.bad_rows.append(self.source.restore_uris_of(bad_row))

    def check(self, file: Path, max_bad_row_ratio: float) -> None:
        """Log the unusable rows.

        Raises:
            DataError: the part has no rows, no usable ones, or too many unusable ones.
        """
        bad = self.rejected.total()
        if self.rows_read == 0:
            raise DataError(f"{file}: the eval set has no {self.part}")
        is_refused = bad / self.rows_read > max_bad_row_ratio or bad == self.rows_read
        for row in self.bad_rows[is_refused:LOGGED_BAD_ROWS]:  # the error names the first
            warn(f"{row.where}: {row.reason} ({row.detail})")
        if is_refused:
            raise DataError(
                describe_bad_rows(self.rejected, self.bad_rows[0], self.rows_read, self.part, max_bad_row_ratio)
            )
        if bad:
            reasons = count_reasons(self.rejected)
            warn(f"skipped {bad} of {self.rows_read} {self.part} of {self.source.name} as unusable: {reasons}")


def read_evalset(source: LocalSource, folder: Path, max_bad_row_ratio: float = 0.0) -> EvalSet:
    """Read an eval set and write `queries.arrow`, `corpus.arrow` and `qrels.arrow` into `folder`.

    Up to `max_bad_row_ratio` of the rows of each part may be unusable; they are left out and counted. So are queries
    without a relevant document, for which no metric is defined.

    Raises:
        DataError: a part is missing or empty, or has too many unusable rows, or nothing is relevant.
    """
    checkers = tuple(_RowChecker(part, source) for part in ("queries", "documents", "judgments"))
    with source.uris_in_errors():
        layout = find_layout(source.root, source.files)
        every = _read(layout, checkers, max_bad_row_ratio)
        judged = _with_relevant_documents(every)
        if not judged.queries:
            raise DataError(f"{layout.qrels_file}: no judgment has a score above 0, so no document is relevant")
    if unjudged := len(every.queries) - len(judged.queries):
        warn(f"{source.name}: {unjudged} of {len(every.queries)} queries have no relevant document and are skipped")
    if judged.in_corpus:
        log(
            f"{source.name}: {len(judged.in_corpus)} of {len(judged.queries)} queries are also in the corpus, "
            "under the same id; they are excluded from their own rankings"
        )
    _warn_of_missing_values(f"queries of {source.name}", judged.queries)
    _warn_of_missing_values(f"documents of {source.name}", judged.corpus)
    bad_rows = [row for checker in checkers for row in checker.bad_rows]
    return replace(
        write_evalset(source.name, source.uri, folder, judged),
        sha256=sha256_of(layout.files),
        unjudged_queries=unjudged,
        rejected=dict(sum((checker.rejected for checker in checkers), Counter())),
        bad_rows=tuple(bad_rows[:RECORDED_BAD_ROWS]),
    )


def _read(layout: Layout, checkers: tuple[_RowChecker, ...], max_bad_row_ratio: float) -> EvalData:
    """Check each part before the next is read: an unusable query makes its judgments unusable."""
    query_checker, document_checker, qrel_checker = checkers
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    qrels: dict[tuple[str, str], int] = {}
    in_corpus = set()
    titles: dict[str, int] = {}
    for query in _unique(layout.queries(), query_checker, queries):
        queries[query.identifier] = query.text
    query_checker.check(layout.queries_file, max_bad_row_ratio)
    for document in _unique(layout.corpus(), document_checker, corpus):
        corpus[document.identifier] = document.text
        if title := len(document.text) - len(document.untitled):
            titles[document.identifier] = title
        if _is_same_text(queries.get(document.identifier), document):
            in_corpus.add(document.identifier)
    document_checker.check(layout.corpus_file, max_bad_row_ratio)
    for qrel in qrel_checker.usable(layout.qrels()):
        relevance = _parse_relevance(qrel)
        bad_row = relevance if isinstance(relevance, BadRow) else _find_flaw(qrel, relevance, queries, corpus, qrels)
        if bad_row:
            qrel_checker.reject(bad_row)
        elif isinstance(relevance, int):
            qrels[qrel.query, qrel.document] = relevance
    qrel_checker.check(layout.qrels_file, max_bad_row_ratio)
    return EvalData(queries, corpus, qrels, frozenset(in_corpus), titles)


def _unique(rows: Iterable[Passage | BadRow], checker: _RowChecker, texts: Mapping[str, str]) -> Iterator[Passage]:
    """Yield the usable rows whose ids are not yet in `texts`, and reject the others."""
    for passage in checker.usable(rows):
        if passage.identifier in texts:
            checker.reject(BadRow(passage.where, "duplicate id", f"{passage.identifier!r}; ids must be unique"))
        else:
            yield passage


def _is_same_text(query: str | None, document: Passage) -> bool:
    """Whether a document is the query with its id, with or without a title."""
    if query is None:
        return False
    return _normalize(query) in (_normalize(document.text), _normalize(document.untitled))


def _normalize(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _parse_relevance(qrel: Qrel) -> int | BadRow:
    """The score as an integer; 1.0 is accepted."""
    try:
        number = float("nan" if isinstance(qrel.score, bool) else qrel.score)
    except (ValueError, TypeError, OverflowError):
        number = float("nan")
    if number.is_integer() and abs(number) <= MAX_RELEVANCE:
        return int(number)
    detail = f"score {qrel.score!r} of {qrel.document!r} is not an integer up to {MAX_RELEVANCE}"
    return BadRow(qrel.where, "invalid score", detail)


def _find_flaw(
    qrel: Qrel,
    relevance: int,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    qrels: Mapping[tuple[str, str], int],
) -> BadRow | None:
    """Why a judgment is unusable, if it is. Of contradicting ones the first is kept."""
    if qrel.query not in queries:
        return BadRow(qrel.where, "unknown id", f"no query {qrel.query!r}")
    if qrel.document not in corpus:
        return BadRow(qrel.where, "unknown id", f"no document {qrel.document!r}")
    previous = qrels.get((qrel.query, qrel.document), relevance)
    if previous == relevance:
        return None
    detail = f"{qrel.document!r} has score {relevance} for {qrel.query!r}, but {previous} further up; keep one"
    return BadRow(qrel.where, "contradiction", detail)


def _with_relevant_documents(data: EvalData) -> EvalData:
    """Only the queries with a relevant document other than themselves."""
    qrels = {
        (query, document): relevance
        for (query, document), relevance in data.qrels.items()
        if query != document or query not in data.in_corpus
    }
    judged = {query for (query, _), relevance in qrels.items() if relevance > 0}
    return EvalData(
        {query: text for query, text in data.queries.items() if query in judged},
        data.corpus,
        {pair: relevance for pair, relevance in qrels.items() if pair[0] in judged},
        data.in_corpus & judged,
        data.titles,
    )


def _warn_of_missing_values(name: str, texts: Mapping[str, str]) -> None:
    ids = [identifier for identifier, text in texts.items() if is_missing_value(text)]
    if ids:
        warn(f"{name}: {len(ids)} texts look like missing values (first: {texts[ids[0]]!r}, id {ids[0]!r})")
