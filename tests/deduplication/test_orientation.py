"""Swapped columns are detected by words and lengths; ordinary data of any shape is not reported."""

import json
import random
from dataclasses import replace

import pytest

from mnrl_job.data.evalset import EvalData, write_evalset
from mnrl_job.deduplication.orientation import find_swapped_columns
from mnrl_job.pipeline.check_data import swapped_columns
from tests.program import ROOT

FOLDER = ROOT / "examples" / "support-faq"


def lines(path):
    return [json.loads(line) for line in path.open(encoding="utf-8")]


# Questions and answers as people write them; an eval set of the same desk.
PAIRS = [(row["anchor"], row["positive"]) for row in lines(FOLDER / "train.jsonl")]
QUERIES, CORPUS = ([row["text"] for row in lines(FOLDER / "eval" / f"{name}.jsonl")] for name in ("queries", "corpus"))
QUESTIONS, ANSWERS = map(list, zip(*PAIRS, strict=True))


def swap_sides(rows):
    return [(positive, anchor) for anchor, positive in rows]


@pytest.fixture
def eval_sets(tmp_path):
    def write(queries, corpus):
        texts = (
            {f"{kind}{i}": text for i, text in enumerate(texts_of_kind)}
            for kind, texts_of_kind in (("q", queries), ("d", corpus))
        )
        return [write_evalset("e", "e", tmp_path / "e", EvalData(*texts, {("q0", "d0"): 1}))]

    return write


def test_correctly_oriented_pairs_are_not_reported_as_swapped(pairs, eval_sets):
    assert find_swapped_columns(pairs(PAIRS), eval_sets(QUERIES, CORPUS)) == []
    assert find_swapped_columns(pairs(PAIRS), []) == []


def test_swapped_columns_are_reported_with_evidence_and_remedy(pairs, eval_sets):
    read = pairs(swap_sides(PAIRS))
    source = replace(read.sources[0], columns={"anchor": "question", "positive": "answer"})
    (swapped,) = find_swapped_columns(replace(read, sources=(source,)), eval_sets(QUERIES, CORPUS))
    assert swapped.anchor_characters > 2 * swapped.positive_characters
    assert swapped.query_like_positives > 0.9
    finding = swapped_columns(swapped)
    assert finding.status == "warning"
    assert "MNRL_ANCHOR_COLUMN=answer and MNRL_POSITIVE_COLUMN=question" in finding.remedy
    assert (
        f"{swapped.anchor_characters} characters for anchors and {swapped.positive_characters} for positives"
        in finding.detail
    )
    assert (
        f"in {swapped.query_like_positives:.0%} of the rows the positive is more like the eval queries"
        in finding.detail
    )


def test_of_several_sources_the_one_that_is_swapped_is_named(pairs, eval_sets):
    read = pairs([*PAIRS[:200], *swap_sides(PAIRS[200:400])])
    sources = tuple(replace(read.sources[0], name=name, rows=rows) for name, rows in (("a", 200), ("b", 0), ("c", 200)))
    assert [
        one.source.name for one in find_swapped_columns(replace(read, sources=sources), eval_sets(QUERIES, CORPUS))
    ] == ["c"]


def test_without_eval_data_only_a_large_difference_in_length_counts(pairs):
    assert find_swapped_columns(pairs(swap_sides(PAIRS)), []) == [], "three times as long: so may long questions be"
    passages = [(question, f"{answer} {answer}") for question, answer in PAIRS]
    (swapped,) = find_swapped_columns(pairs(swap_sides(passages)), [])
    assert swapped.query_like_positives is None
    assert find_swapped_columns(pairs(passages), []) == []


def test_short_answers_are_not_reported_as_swapped(pairs):
    assert find_swapped_columns(pairs([(question, answer.split()[0]) for question, answer in PAIRS]), []) == []


def shuffled(text):
    words = text.split()
    random.Random(1).shuffle(words)
    return " ".join(words)


@pytest.mark.parametrize("turn", [list, swap_sides])
@pytest.mark.parametrize("texts", [QUESTIONS, ANSWERS])
def test_pairs_with_interchangeable_sides_are_not_reported_as_swapped(pairs, eval_sets, turn, texts):
    """Duplicate questions, or arguments and counterarguments, with eval sets of the same or another kind."""
    similar_pairs = turn([(text, shuffled(text)) for text in texts])
    assert (
        find_swapped_columns(pairs(similar_pairs), eval_sets(texts[:100], [shuffled(text) for text in texts[100:300]]))
        == []
    )
    assert find_swapped_columns(pairs(similar_pairs), eval_sets(QUERIES, CORPUS)) == []
    assert find_swapped_columns(pairs(similar_pairs), []) == []


def test_length_is_ignored_if_eval_queries_are_as_long_as_documents(pairs, eval_sets):
    """Long queries with short answers, and too few eval texts to learn from their words."""
    passages = [(f"{answer} {answer}", question) for question, answer in PAIRS]
    read = pairs(passages)
    assert find_swapped_columns(read, eval_sets(ANSWERS[:10], ANSWERS[10:20])) == []
    assert find_swapped_columns(read, eval_sets(QUESTIONS[:10], ANSWERS[10:20])) != []
    assert find_swapped_columns(read, []) != []
