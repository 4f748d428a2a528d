"""Do anchors and positives stand in each other's column? By their words and lengths, next to an eval set's.

Which side a text is of is told by naive Bayes over words: the log of how much more often a word stands in eval queries
than in eval documents, averaged over a text's words, so that length does not count (Manning, Raghavan and Schütze,
Introduction to Information Retrieval, chapter 13). Its word is taken only where it tells eval texts themselves apart.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs, SourceRecord
from mnrl_job.data.tables import read_table, take
from mnrl_job.deduplication.text_similarity import WORD, normalize

SAMPLED_TEXTS = 500
# With fewer eval texts of a kind their words tell nothing.
TEXTS_TO_LEARN_FROM = 20
# So often an eval query must look more like a query than a document does, for the words to be believed.
TELLING = 0.8
# And at most so often an anchor looks more like one than its positive, where the two are swapped.
SWAPPED = 0.25
# Without telling words: anchors of passage length, so many times as long as their positives, in so many of the rows.
PASSAGE_CHARACTERS = 150
TIMES_LONGER = 4
MOST_ROWS = 0.9
# Where eval documents are not even so many times as long as eval queries, length says nothing about the sides.
EVAL_TIMES_LONGER = 2
QUESTION = ("?", "？", "؟")


@dataclass(frozen=True, slots=True)
class Swapped:
    """A source whose columns seem to be swapped.

    Attributes:
        source: with the names of its columns.
        anchor_characters: the median length of its anchors.
        positive_characters: that of its positives.
        likeness: the share of rows whose positive looks more like an eval query than its anchor does; None where the
            eval sets' words do not tell.
    """

    source: SourceRecord
    anchor_characters: int
    positive_characters: int
    likeness: float | None


@dataclass(frozen=True, slots=True)
class _Sides:
    """Texts of either side, sampled."""

    queries: list[str]
    documents: list[str]

    def times_longer(self) -> float:
        """How many times as long as the queries the documents are, by their medians."""
        return _characters(self.documents) / max(1, _characters(self.queries))


def find_swapped(pairs: Pairs, eval_sets: Sequence[EvalSet]) -> list[Swapped]:
    """The sources whose anchors look like documents and whose positives look like queries.

    Args:
        pairs: as they were read.
        eval_sets: those given, not one held out from these pairs.
    """
    sides = _eval_sides(eval_sets)
    weights = _telling_weights(sides)
    table = read_table(pairs.path)
    found, start = [], 0
    for source in pairs.sources:
        if source.rows:
            rows = start + _spread(source.rows)
            own = _Sides(*(take(table[name], rows).to_pylist() for name in ("anchor", "positive")))
            likeness = 1 - _told_apart(own, weights) if weights else None
            if _is_swapped(own, sides, likeness):
                lengths = _characters(own.queries), _characters(own.documents)
                found.append(Swapped(source, *lengths, likeness))
        start += source.rows
    return found


def _is_swapped(own: _Sides, evals: _Sides, likeness: float | None) -> bool:
    """Words have priority; without them only anchors that are much longer, where eval queries are not long as well."""
    if likeness is not None:
        return 1 - likeness <= SWAPPED
    if evals.queries and evals.times_longer() < EVAL_TIMES_LONGER:
        return False
    longer = [len(one) > len(other) for one, other in zip(own.queries, own.documents, strict=True)]
    is_long = _characters(own.queries) >= max(PASSAGE_CHARACTERS, TIMES_LONGER * _characters(own.documents))
    return is_long and float(np.mean(longer)) >= MOST_ROWS


def _eval_sides(eval_sets: Sequence[EvalSet]) -> _Sides:
    queries, documents = (
        [text for one in eval_sets for text in _sampled(read_table(one.folder / f"{name}.arrow")["text"])]
        for name in ("queries", "corpus")
    )
    return _Sides(queries, documents)


def _telling_weights(sides: _Sides) -> dict[str, float] | None:
    """How much each word speaks for a query; None where words do not tell the sides apart.

    That is tried on the texts of one half with what was learnt from the other.
    """
    if min(len(sides.queries), len(sides.documents)) < TEXTS_TO_LEARN_FROM:
        return None
    learnt = _weights(_Sides(sides.queries[::2], sides.documents[::2]))
    asked, others = (_scores(texts[1::2], learnt) for texts in (sides.queries, sides.documents))
    return _weights(sides) if _share_above(asked[:, None], others) >= TELLING else None


def _weights(sides: _Sides) -> dict[str, float]:
    """The log of how much more often a word stands in queries, each word counted once more than it was seen."""
    queries, documents = (
        Counter(word for text in side for word in _words(text)) for side in (sides.queries, sides.documents)
    )
    known = queries.keys() | documents.keys()
    totals = [counts.total() + len(known) for counts in (queries, documents)]
    return {word: float(np.log((queries[word] + 1) / totals[0] * totals[1] / (documents[word] + 1))) for word in known}


def _told_apart(own: _Sides, weights: dict[str, float]) -> float:
    """The share of rows whose anchor looks more like a query than the positive does."""
    return _share_above(_scores(own.queries, weights), _scores(own.documents, weights))


def _share_above(some: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """How often one is above the other; a tie is half."""
    return float(np.mean((some > others) + 0.5 * (some == others)))


def _scores(texts: list[str], weights: dict[str, float]) -> NDArray[np.float64]:
    """The mean weight of the known words of each text, 0 without any."""
    found = ([weights[word] for word in _words(text) if word in weights] for text in texts)
    return np.array([sum(one) / max(1, len(one)) for one in found])


def _words(text: str) -> list[str]:
    asks = ["?"] if text.rstrip().endswith(QUESTION) else []
    return WORD.findall(normalize(text)) + asks


def _characters(texts: list[str]) -> int:
    return int(np.median([len(text) for text in texts])) if texts else 0


def _sampled(column: pa.ChunkedArray) -> list[str]:
    texts: list[str] = take(column, _spread(len(column))).to_pylist()
    return texts


def _spread(rows: int) -> NDArray[np.int64]:
    """Some rows, evenly spread."""
    return np.linspace(0, rows - 1, min(rows, SAMPLED_TEXTS)).astype(np.int64)
