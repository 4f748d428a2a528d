"""BM25 in Lucene's variant, on words of any language."""

import math
import re
from collections import Counter

import pytest

from mnrl_job.data.evalset import EvalData, write_evalset
from mnrl_job.evaluation import bm25
from mnrl_job.evaluation.bm25 import bm25_metrics
from mnrl_job.evaluation.metrics import ranking_metrics

CORPUS = {
    "d1": "Der Zähler steht im Keller, der Keller ist trocken.",
    "d2": "Rechnung und Zähler: was auf der Rechnung steht",
    "d3": "Kontakt",
    "d4": "Wie man den Zähler abliest und den Stand meldet",
}
QUERIES = {"q1": "Zähler im Keller", "q2": "Rechnung", "q3": "Umzug"}
GRADES = {("q1", "d1"): 2, ("q1", "d4"): 1, ("q2", "d4"): 1, ("q2", "d2"): 1, ("q3", "d3"): 1}


def by_hand(query, k1=1.5, b=0.75):
    """Ids of the documents that share a word with the query, best first."""
    words = {name: Counter(re.findall(r"\w\w+", text.lower())) for name, text in CORPUS.items()}
    mean = sum(sum(counts.values()) for counts in words.values()) / len(words)
    scores = Counter()
    for word in re.findall(r"\w\w+", query.lower()):
        holders = [name for name, counts in words.items() if counts[word]]
        rarity = math.log(1 + (len(words) - len(holders) + 0.5) / (len(holders) + 0.5))
        for name in holders:
            length = k1 * (1 - b + b * sum(words[name].values()) / mean)
            scores[name] += rarity * words[name][word] / (words[name][word] + length)
    return [name for name, _ in scores.most_common()]


def test_rankings_follow_the_formula_and_have_no_document_without_a_common_word(tmp_path):
    metrics = bm25_metrics(write_evalset("de", "", tmp_path, EvalData(QUERIES, CORPUS, GRADES)), [1, 3])
    expected = []
    for query, text in QUERIES.items():
        grades = {document: grade for (query_id, document), grade in GRADES.items() if query_id == query}
        ranking = [grades.get(name, 0) for name in by_hand(text)]
        expected.append(ranking_metrics(ranking, list(grades.values()), [1, 3]))
    for name, value in metrics.items():
        assert value == pytest.approx(sum(result[name] for result in expected) / len(QUERIES)), name
    assert 0 < metrics["ndcg@3"] < 1


def test_a_query_in_the_corpus_is_left_out_of_its_own_ranking(tmp_path):
    corpus = {"q1": "Zähler im Keller"} | CORPUS
    with_itself, without = (
        bm25_metrics(write_evalset("de", "", tmp_path / name, EvalData(QUERIES, corpus, GRADES, own)), [1])
        for name, own in (("with", ()), ("without", ["q1"]))
    )
    assert (with_itself["accuracy@1"], without["accuracy@1"]) == pytest.approx((1 / 3, 2 / 3))


def test_a_corpus_without_words_or_too_large_has_no_metrics(tmp_path, monkeypatch):
    wordless = write_evalset("a", "", tmp_path / "a", EvalData({"q": "!"}, {"d": "?", "e": "."}, {("q", "d"): 1}))
    assert bm25_metrics(wordless, [1]) is None
    monkeypatch.setattr(bm25, "MAX_CORPUS_BYTES", sum(len(text.encode()) for text in CORPUS.values()) - 1)
    assert bm25_metrics(write_evalset("b", "", tmp_path / "b", EvalData(QUERIES, CORPUS, GRADES)), [1]) is None
