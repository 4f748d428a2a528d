"""Training data in BEIR layout: every judgement with a score above 0 is a pair of a query and a document."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from mnrl_job.data.beir import Judgement, find_part, find_parts, id_of, passage_of, read_judgements
from mnrl_job.data.clean_text import Line
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.errors import DataError

SPLITS = ("train", "dev", "test")
EXPECTED = "training data in BEIR layout is a folder with corpus.jsonl, queries.jsonl and qrels/train.tsv"

# A text by its id, or why it is unusable.
Known = dict[str, str | BadRow]


@dataclass(frozen=True, slots=True)
class BeirPairs:
    """A folder in BEIR layout, found and not yet read."""

    corpus: Path
    queries: Path
    qrels: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.corpus, self.queries, self.qrels)

    @property
    def columns(self) -> dict[str, str]:
        return {"anchor": self.queries.name, "positive": self.corpus.name}

    @property
    def ignored(self) -> tuple[str, ...]:
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    @property
    def has_negatives(self) -> bool:
        return False

    def lines(self) -> Iterator[tuple[str, Line]]:
        """Yield where each judgement stands with its pair, nothing if it is not relevant, or why it is unusable.

        The judgements are read twice, so that only the texts they name need be held.
        """
        anchors, positives = set(), set()
        for one in read_judgements(self.qrels):
            if isinstance(one, Judgement) and (_score(one) or 0) > 0:
                anchors.add(one.query)
                positives.add(one.document)
        queries: Known = {}
        corpus: Known = {}
        for bad in chain(_collect(self.queries, anchors, queries), _collect(self.corpus, positives, corpus)):
            yield bad.where, bad
        for one in read_judgements(self.qrels):
            yield one.where, one if isinstance(one, BadRow) else self._pair(one, queries, corpus)

    def _pair(self, one: Judgement, queries: Known, corpus: Known) -> Line:
        score = _score(one)
        if score is None:
            return BadRow(one.where, "not a number", f"score is {one.score!r}")
        if score <= 0:
            return ()
        anchor = _text(one.where, one.query, queries, self.queries)
        positive = _text(one.where, one.document, corpus, self.corpus)
        if isinstance(anchor, BadRow):
            return anchor
        return positive if isinstance(positive, BadRow) else ((anchor, positive),)


def find_judged(root: Path) -> BeirPairs | None:
    """The parts of a folder in BEIR layout; None where it is no such folder.

    Raises:
        DataError: it has judgements, but none to train on, or a part is missing.
    """
    splits = [split for split in SPLITS if find_part(root, f"qrels/{split}.tsv")]
    if not splits:
        return None
    if "train" not in splits:
        raise DataError(
            f"{root}: qrels/train.tsv is missing, and qrels/{splits[-1]}.tsv is for evaluation only; {EXPECTED}"
        )
    return BeirPairs(*find_parts(root, "train", EXPECTED))


def _score(one: Judgement) -> float | None:
    try:
        score = float(one.score)
    except ValueError:
        return None
    return score if math.isfinite(score) else None


def _collect(path: Path, named: set[str], texts: Known) -> Iterator[BadRow]:
    """Fill `texts` with those that are named. Yield the lines that cannot be read, as nobody knows whom they name."""
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        identifier = row if isinstance(row, BadRow) else id_of(row, where)
        if isinstance(row, BadRow):
            yield row
        elif isinstance(identifier, BadRow):
            yield identifier
        elif identifier in texts:
            texts[identifier] = BadRow(where, "duplicate id", repr(identifier))
        elif identifier in named:
            passage = passage_of(row, identifier, where)
            texts[identifier] = passage if isinstance(passage, BadRow) else passage.text


def _text(where: str, identifier: str, known: Known, file: Path) -> str | BadRow:
    text = known.get(identifier)
    if text is None:
        return BadRow(where, "unknown id", f"{file.name} has no {identifier!r}")
    return BadRow(where, text.reason, f"{text.detail} at {text.where}") if isinstance(text, BadRow) else text
