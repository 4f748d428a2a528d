"""From a BEIR folder or a JSON file to queries, corpus and judgements, checked and written as Arrow."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from mnrl_job.data.beir import Passage
from mnrl_job.data.eval_layouts import Graded, Layout, find_layout
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.missing_values import is_missing_value
from mnrl_job.data.row_counts import remedy
from mnrl_job.data.sources import LocalSource
from mnrl_job.data.tables import write_columns
from mnrl_job.errors import DataError
from mnrl_job.system.files import sha256_of
from mnrl_job.system.logs import log, warn

Row = TypeVar("Row", Passage, Graded)

NAMED_BAD_ROWS = 100
TOLD_BAD_ROWS = 10

Texts = dict[str, str]
Grades = dict[tuple[str, str], int]


@dataclass(slots=True)
class _Part:
    """How many rows of a part were read so far, and those of them that cannot be used."""

    name: str
    source: LocalSource
    read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    bad_rows: list[BadRow] = field(default_factory=list)

    def usable(self, rows: Iterable[Row | BadRow]) -> Iterator[Row]:
        """Count the rows, and yield those that can be used."""
        for row in rows:
            self.read += 1
            if isinstance(row, BadRow):
                self.reject(row)
            else:
                yield row

    def reject(self, bad: BadRow) -> None:
        self.rejected[bad.reason] += 1
        if len(self.bad_rows) < NAMED_BAD_ROWS:
            given = self.source.as_given
            self.bad_rows.append(BadRow(given(bad.where), bad.reason, given(bad.detail)))

    def enforce(self, tolerated: float) -> None:
        """Name what is left out; refuse more of it than is tolerated, and a part that has nothing else."""
        bad = sum(self.rejected.values())
        if self.read == 0:
            raise DataError(f"{self.source.uri}: the eval set has no {self.name}")
        refused = bad / self.read > tolerated or bad == self.read
        for one in self.bad_rows[refused:TOLD_BAD_ROWS]:  # the first of those refused stands in the error
            warn(f"{one.where}: {one.reason} ({one.detail})")
        if refused:
            first = self.bad_rows[0]
            limit = f", more than MNRL_MAX_BAD_ROW_RATIO={tolerated:g} allows" if bad / self.read > tolerated else ""
            raise DataError(
                f"{first.where}: {first.reason} ({first.detail}); {bad} of {self.read} {self.name} are unusable "
                f"({self.counts}){limit}; {remedy(bad, self.read)}"
            )
        if bad:
            warn(f"skipped {bad} of {self.read} {self.name} of {self.source.name} as unusable: {self.counts}")

    @property
    def counts(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.rejected.most_common())


@dataclass(frozen=True, slots=True)
class _Content:
    """Texts and grades by their ids. The queries `own` stand in the corpus themselves, under their own ids."""

    queries: Texts
    corpus: Texts
    grades: Grades
    own: frozenset[str]


def read_evalset(source: LocalSource, folder: Path, max_bad_row_ratio: float = 0.0) -> EvalSet:
    """Read an eval set and write `queries.arrow`, `corpus.arrow` and `judgements.arrow` into `folder`.

    Up to `max_bad_row_ratio` of the rows of each part may be unusable; they are left out and counted. So are queries
    without a relevant document, for which no metric is defined.

    Raises:
        DataError: a part is missing or empty, or has too many unusable rows, or nothing is relevant.
    """
    parts = (_Part("queries", source), _Part("documents", source), _Part("judgements", source))
    with source.named():
        layout = find_layout(source.root, source.files)
        read = _read(layout, parts, max_bad_row_ratio)
        content = _judged(read)
        if not content.queries:
            raise DataError(f"{source.uri}: no judgement has a score above 0, so no document is relevant")
    if unjudged := len(read.queries) - len(content.queries):
        warn(f"{source.name}: {unjudged} of {len(read.queries)} queries have no relevant document and are skipped")
    if content.own:
        log(
            f"{source.name}: {len(content.own)} of {len(content.queries)} queries are also in the corpus, "
            "under the same id; they are excluded from their own rankings"
        )
    _tell_missing_values(f"queries of {source.name}", content.queries)
    _tell_missing_values(f"documents of {source.name}", content.corpus)
    written = write_evalset(
        source.name, source.uri, folder, content.queries, content.corpus, content.grades, content.own
    )
    bad_rows = [row for part in parts for row in part.bad_rows]
    return replace(
        written,
        sha256=sha256_of(layout.files),
        unjudged_queries=unjudged,
        rejected=dict(sum((part.rejected for part in parts), Counter())),
        bad_rows=tuple(bad_rows[:NAMED_BAD_ROWS]),
    )


def _tell_missing_values(name: str, texts: Texts) -> None:
    words = [identifier for identifier, text in texts.items() if is_missing_value(text)]
    if words:
        warn(f"{name}: {len(words)} texts look like missing values (first: {texts[words[0]]!r}, id {words[0]!r})")


def write_evalset(
    name: str,
    uri: str,
    folder: Path,
    queries: Texts,
    corpus: Texts,
    grades: Grades,
    own: Collection[str] = frozenset(),
) -> EvalSet:
    """Write a checked eval set as Arrow files, by whose hash it is known.

    The document that has the id of a query in `own` is that query, and is left out of its ranking.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_columns(folder / "queries.arrow", id=queries, text=queries.values(), own=(query in own for query in queries))
    write_columns(folder / "corpus.arrow", id=corpus, text=corpus.values())
    write_columns(
        folder / "judgements.arrow",
        query=(query for query, _ in grades),
        document=(document for _, document in grades),
        grade=grades.values(),
    )
    sha256 = sha256_of(sorted(folder.glob("*.arrow")))
    return EvalSet(name, uri, folder, len(queries), len(corpus), len(grades), 0, sha256, len(own))


def _read(layout: Layout, parts: tuple[_Part, _Part, _Part], tolerated: float) -> _Content:
    """Read part after part, so that what is wrong is told before what comes of it."""
    queries: Texts = {}
    corpus: Texts = {}
    grades: Grades = {}
    own = set()
    for _ in _unique(layout.queries(), parts[0], queries):
        pass
    parts[0].enforce(tolerated)
    for document in _unique(layout.corpus(), parts[1], corpus):
        if _same(queries.get(document.identifier), document):
            own.add(document.identifier)
    parts[1].enforce(tolerated)
    for one in parts[2].usable(layout.judgements()):
        if bad := _flaw(one, queries, corpus, grades):
            parts[2].reject(bad)
        else:
            grades[one.query, one.document] = one.grade
    parts[2].enforce(tolerated)
    return _Content(queries, corpus, grades, frozenset(own))


def _unique(rows: Iterable[Passage | BadRow], part: _Part, texts: Texts) -> Iterator[Passage]:
    """Fill `texts`, and yield what each new one was made of. Of a repeated id the first text is kept."""
    for passage in part.usable(rows):
        if passage.identifier in texts:
            part.reject(BadRow(passage.where, "duplicate id", f"{passage.identifier!r}; ids must be unique"))
        else:
            texts[passage.identifier] = passage.text
            yield passage


def _same(query: str | None, document: Passage) -> bool:
    """Whether a document is the query that has its id; a title may stand above it."""
    if query is None:
        return False
    return _normalised(query) in (_normalised(document.text), _normalised(document.untitled))


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _flaw(one: Graded, queries: Texts, corpus: Texts, grades: Grades) -> BadRow | None:
    """Why a judgement cannot be used, if it cannot. Of several grades the first is kept."""
    if one.query not in queries:
        return BadRow(one.where, "unknown id", f"no query {one.query!r}")
    if one.document not in corpus:
        return BadRow(one.where, "unknown id", f"no document {one.document!r}")
    before = grades.get((one.query, one.document), one.grade)
    if before == one.grade:
        return None
    detail = f"{one.document!r} has score {one.grade} for {one.query!r}, but {before} further up; keep one"
    return BadRow(one.where, "contradiction", detail)


def _judged(read: _Content) -> _Content:
    """What there is to be ranked: the queries with a relevant document, which they are not themselves."""
    grades = {
        (query, document): grade
        for (query, document), grade in read.grades.items()
        if query != document or query not in read.own
    }
    judged = {query for (query, _), grade in grades.items() if grade > 0}
    return _Content(
        {query: text for query, text in read.queries.items() if query in judged},
        read.corpus,
        {pair: grade for pair, grade in grades.items() if pair[0] in judged},
        read.own & judged,
    )
