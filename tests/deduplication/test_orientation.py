"""Columns that are swapped are noticed by words and lengths; ordinary data of any shape is not taken for swapped."""

import json
import random
from dataclasses import replace

import pytest

from mnrl_job.data.read_evalset import write_evalset
from mnrl_job.deduplication.orientation import find_swapped
from mnrl_job.pipeline.check import swapped_columns
from tests.program import ROOT

FOLDER = ROOT / "examples" / "support-faq"


def lines(path):
    return [json.loads(line) for line in path.open(encoding="utf-8")]


# Questions and answers as people write them; an eval set of the same desk.
PAIRS = [(row["anchor"], row["positive"]) for row in lines(FOLDER / "train.jsonl")]
QUERIES, CORPUS = ([row["text"] for row in lines(FOLDER / "eval" / f"{name}.jsonl")] for name in ("queries", "corpus"))
QUESTIONS, ANSWERS = map(list, zip(*PAIRS, strict=True))


def turned(rows):
    return [(positive, anchor) for anchor, positive in rows]


@pytest.fixture
def asked(tmp_path):
    def write(queries, corpus):
        texts = ({f"{kind}{i}": text for i, text in enumerate(some)} for kind, some in (("q", queries), ("d", corpus)))
        return [write_evalset("e", "e", tmp_path / "e", *texts, {("q0", "d0"): 1})]

    return write


def test_pairs_as_they_should_be_are_not_swapped(pairs, asked):
    assert find_swapped(pairs(PAIRS), asked(QUERIES, CORPUS)) == []
    assert find_swapped(pairs(PAIRS), []) == []


def test_swapped_ones_are_told_with_what_speaks_for_it_and_what_to_set(pairs, asked):
    read = pairs(turned(PAIRS))
    source = replace(read.sources[0], columns={"anchor": "question", "positive": "answer"})
    (found,) = find_swapped(replace(read, sources=(source,)), asked(QUERIES, CORPUS))
    assert found.anchor_characters > 2 * found.positive_characters
    assert found.likeness > 0.9
    finding = swapped_columns(found)
    assert finding.status == "warning"
    assert "MNRL_ANCHOR_COLUMN=answer and MNRL_POSITIVE_COLUMN=question" in finding.remedy
    assert (
        f"{found.anchor_characters} characters for anchors and {found.positive_characters} for positives"
        in finding.detail
    )
    assert f"in {found.likeness:.0%} of the rows the positive is more like the eval queries" in finding.detail


def test_of_several_sources_the_one_that_is_swapped_is_named(pairs, asked):
    read = pairs([*PAIRS[:200], *turned(PAIRS[200:400])])
    sources = tuple(replace(read.sources[0], name=name, rows=rows) for name, rows in (("a", 200), ("b", 0), ("c", 200)))
    assert [one.source.name for one in find_swapped(replace(read, sources=sources), asked(QUERIES, CORPUS))] == ["c"]


def test_without_eval_data_only_a_great_difference_in_length_tells(pairs):
    assert find_swapped(pairs(turned(PAIRS)), []) == [], "three times as long: so may long questions be"
    passages = [(question, f"{answer} {answer}") for question, answer in PAIRS]
    (found,) = find_swapped(pairs(turned(passages)), [])
    assert found.likeness is None
    assert find_swapped(pairs(passages), []) == []


def test_short_answers_to_questions_are_not_swapped(pairs):
    assert find_swapped(pairs([(question, answer.split()[0]) for question, answer in PAIRS]), []) == []


def shuffled(text):
    words = text.split()
    random.Random(1).shuffle(words)
    return " ".join(words)


@pytest.mark.parametrize("turn", [list, turned])
@pytest.mark.parametrize("texts", [QUESTIONS, ANSWERS])
def test_pairs_whose_sides_are_of_one_kind_are_not_swapped(pairs, asked, turn, texts):
    """Duplicate questions, or arguments and their counters, next to eval sets of the same or of another kind."""
    alike = turn([(text, shuffled(text)) for text in texts])
    assert find_swapped(pairs(alike), asked(texts[:100], [shuffled(text) for text in texts[100:300]])) == []
    assert find_swapped(pairs(alike), asked(QUERIES, CORPUS)) == []
    assert find_swapped(pairs(alike), []) == []


def test_where_eval_queries_are_as_long_as_documents_length_tells_nothing(pairs, asked):
    """As long queries are trained with short answers, and the few eval texts do not tell by their words."""
    passages = [(f"{answer} {answer}", question) for question, answer in PAIRS]
    read = pairs(passages)
    assert find_swapped(read, asked(ANSWERS[:10], ANSWERS[10:20])) == []
    assert find_swapped(read, asked(QUESTIONS[:10], ANSWERS[10:20])) != []
    assert find_swapped(read, []) != []
