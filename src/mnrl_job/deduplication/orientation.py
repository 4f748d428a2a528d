"""Detect sources whose anchor and positive columns are swapped, by comparing them with the eval sets.

Naive Bayes over words (Manning, Raghavan and Schütze, Introduction to Information Retrieval, chapter 13): the log ratio
of a word's frequencies in eval queries and eval documents, averaged over the words of a text, so that length does not
matter. It is used only if it separates the eval queries from the eval documents.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs, SourceRecord
from mnrl_job.data.tables import evenly_spaced, read_table, take
from mnrl_job.deduplication.text_similarity import WORD, normalize

SAMPLED_TEXTS = 500
# Fewer eval queries or documents are not enough to estimate word frequencies.
MIN_EVAL_TEXTS = 20
# The classifier is used if at least this fraction of (eval query, eval document) pairs is ordered correctly.
MIN_ACCURACY = 0.8
# A source is swapped if at most this fraction of its rows is ordered correctly.
MAX_SWAPPED_ACCURACY = 0.25
# Without a classifier a source is swapped if its anchors have at least this length, and this many times the length of
# its positives, and are longer in this fraction of the rows.
MIN_PASSAGE_CHARACTERS = 150
MIN_LENGTH_RATIO = 4
MIN_LONGER_ANCHORS = 0.9
# Lengths are compared only if eval documents are at least this many times as long as eval queries.
MIN_EVAL_LENGTH_RATIO = 2
QUESTION_MARKS = ("?", "？", "؟")


@dataclass(frozen=True, slots=True)
class SwappedColumns:
    """A source whose columns seem to be swapped, with the median lengths of its anchors and positives.

    `query_like_positives` is the fraction of rows whose positive is more like an eval query than its anchor is; None if
    the words of the eval sets do not separate queries from documents.
    """

    source: SourceRecord
    anchor_characters: int
    positive_characters: int
    query_like_positives: float | None


@dataclass(frozen=True, slots=True)
class _Sample:
    """Sampled queries and documents, or anchors and positives."""

    queries: list[str]
    documents: list[str]

    def length_ratio(self) -> float:
        """Median length of the documents relative to that of the queries."""
        return _median_length(self.documents) / max(1, _median_length(self.queries))


def find_swapped_columns(pairs: Pairs, eval_sets: Sequence[EvalSet]) -> list[SwappedColumns]:
    """The sources whose anchors look like documents and whose positives look like queries.

    `eval_sets` are those given, not one held out from these pairs.
    """
    evals = _sample_eval_sets(eval_sets)
    weights = _train_classifier(evals)
    table = read_table(pairs.path)
    swapped, start = [], 0
    for source in pairs.sources:
        if source.rows:
            rows = start + evenly_spaced(source.rows, SAMPLED_TEXTS)
            sample = _Sample(*(take(table[name], rows).to_pylist() for name in ("anchor", "positive")))
            query_like = (
                1 - _fraction_above(*(_scores(texts, weights) for texts in (sample.queries, sample.documents)))
                if weights
                else None
            )
            if _is_swapped(sample, evals, query_like):
                lengths = _median_length(sample.queries), _median_length(sample.documents)
                swapped.append(SwappedColumns(source, *lengths, query_like))
        start += source.rows
    return swapped


def _is_swapped(sample: _Sample, evals: _Sample, query_like_positives: float | None) -> bool:
    """By words if there is a classifier, else by length."""
    if query_like_positives is not None:
        return 1 - query_like_positives <= MAX_SWAPPED_ACCURACY
    if evals.queries and evals.length_ratio() < MIN_EVAL_LENGTH_RATIO:
        return False
    is_longer = [len(anchor) > len(positive) for anchor, positive in zip(sample.queries, sample.documents, strict=True)]
    min_length = max(MIN_PASSAGE_CHARACTERS, MIN_LENGTH_RATIO * _median_length(sample.documents))
    return _median_length(sample.queries) >= min_length and float(np.mean(is_longer)) >= MIN_LONGER_ANCHORS


def _sample_eval_sets(eval_sets: Sequence[EvalSet]) -> _Sample:
    parts: dict[str, list[str]] = {"queries": [], "corpus": []}
    for eval_set, part in product(eval_sets, parts):
        column = read_table(eval_set.folder / f"{part}.arrow")["text"]
        parts[part] += take(column, evenly_spaced(len(column), SAMPLED_TEXTS)).to_pylist()
    return _Sample(*parts.values())


def _train_classifier(evals: _Sample) -> dict[str, float] | None:
    """The weight of each word; None if they do not separate one half of the texts when trained on the other."""
    if min(len(evals.queries), len(evals.documents)) < MIN_EVAL_TEXTS:
        return None
    weights = _word_weights(_Sample(evals.queries[::2], evals.documents[::2]))
    queries, documents = (_scores(texts[1::2], weights) for texts in (evals.queries, evals.documents))
    return _word_weights(evals) if _fraction_above(queries[:, None], documents) >= MIN_ACCURACY else None


def _word_weights(sample: _Sample) -> dict[str, float]:
    """The log ratio of each word's frequencies in queries and documents, with add-one smoothing."""
    queries, documents = (
        Counter(word for text in texts for word in _words(text)) for texts in (sample.queries, sample.documents)
    )
    vocabulary = queries.keys() | documents.keys()
    totals = [counts.total() + len(vocabulary) for counts in (queries, documents)]
    return {
        word: float(np.log((queries[word] + 1) / totals[0] * totals[1] / (documents[word] + 1))) for word in vocabulary
    }


def _fraction_above(scores: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """How often a score is above the other; ties count half."""
    return float(np.mean((scores > others) + 0.5 * (scores == others)))


def _scores(texts: list[str], weights: dict[str, float]) -> NDArray[np.float64]:
    """The mean weight of the known words of each text; 0 if there are none."""
    known = ([weights[word] for word in _words(text) if word in weights] for text in texts)
    return np.array([sum(each) / max(1, len(each)) for each in known])


def _words(text: str) -> list[str]:
    question_mark = ["?"] if text.rstrip().endswith(QUESTION_MARKS) else []
    return WORD.findall(normalize(text)) + question_mark


def _median_length(texts: list[str]) -> int:
    return int(np.median([len(text) for text in texts])) if texts else 0
