"""The audit's numbers, checked by hand on a small set; odd texts in any language."""

import numpy as np
import pyarrow as pa
import pytest

from mnrl_job.preparation.audit import Leaks, audit
from mnrl_job.preparation.groups import find_groups
from mnrl_job.preparation.oddities import SHOWN_CHARACTERS, find_oddities

LONG = "every invoice is listed under billing with a link and can be had as a file by mail or by post at any time"
ROWS = [
    ("q1", f"{LONG} now", "n1"),
    ("Q1", f"{LONG} NOW", "n2"),  # repeats the first pair
    ("q1", f"{LONG} later", "n3"),  # near-duplicate of the first
    ("q1", "plain answer", "n4"),
    ("q2", "plain answer", "n5"),
    ("q3", "plain answer", f"{LONG} now"),
    ("q4", "lonely", "plain answer"),
    ("q4", "plain answer", "n8"),  # so row 6's negative is a positive of its anchor
]


@pytest.fixture
def content(pairs, tmp_path):
    read = pairs(ROWS)
    found = find_groups(read, None, 0.9, tmp_path / "texts")
    leaks = {"faq": np.arange(8) < 2, "other": np.arange(8) == 1}
    return audit(read, read, found, Leaks("keep", leaks), ())


def test_what_repeats_is_counted(content):
    assert content["duplicates"] == {
        "repeated_rows": 1,
        "distinct_anchors": 4,
        "distinct_positives": 4,
        "anchors_with_several_positives": 2,
        "positives_with_several_anchors": 1,
    }


def test_the_skew_names_the_most_frequent_texts(content):
    assert content["skew"]["most_rows_of_one"] == 4
    assert content["skew"]["share_of_the_ten_most_frequent"] == 1
    top = content["skew"]["top"]
    assert [one["rows"] for one in top] == [4, 3, 1]
    assert (top[0]["text"], top[2]["text"]) == ("plain answer", "lonely")


def test_near_duplicates_are_counted_and_shown(content):
    near = content["near_duplicates"]
    assert (near["groups"], near["texts"], near["largest"]) == (1, 2, 2)
    assert sorted(near["examples"][0]) == [f"{LONG} later", f"{LONG} now"]


def test_contradictions_and_leaks_are_counted_and_shown(content):
    assert content["contradictions"]["negatives"] == 1
    assert [row["positive"] for row in content["contradictions"]["examples"]] == ["lonely"]
    assert content["leakage"]["rows"] == 2
    assert content["leakage"]["by_eval_set"] == {"faq": 2, "other": 1}
    assert len(content["leakage"]["examples"]) == 2
    assert (content["rows_removed_as_leaked"], content["rows_held_out"]) == (0, 0)


def odd(*positives, anchor="question"):
    table = pa.table({"anchor": [anchor] * len(positives), "positive": list(positives)})
    return {name: one["rows"] for name, one in find_oddities(table).items()}


@pytest.mark.parametrize(
    "text", ["na\u00efve caf\u00e9", "it\u2019s \u2014 fine", "Gr\u00f6\u00dfe", "\u00e0 bient\u00f4t"]
)
@pytest.mark.parametrize("wrong", ["latin-1", "cp1252"])
def test_utf8_read_in_another_encoding_is_mojibake_and_the_text_itself_is_not(text, wrong):
    try:
        broken = text.encode().decode(wrong)
    except UnicodeDecodeError:
        broken = "\ufffd"
    assert odd(f"this is {broken}")["mojibake"] == 1
    assert odd(f"this is {text}")["mojibake"] == 0


def test_innocent_texts_are_not_odd():
    innocent = [
        "S\u00c3O PAULO e \u00c2NGULO",
        "copy <file> to <dir>",
        "if a < b and c > d",
        "重置密码",
        "R&D and Q&A",
        "à la carte",
    ]
    assert odd(*innocent) == {"mojibake": 0, "html": 0, "one_word_positives": 0, "anchor_equals_positive": 0}


def test_markup_one_word_and_a_pair_of_one_text_are_odd():
    found = odd("see <a href='x'>here</a>", "a &nbsp; b", "<BR/>line one", "password", "question")
    assert found == {"mojibake": 0, "html": 3, "one_word_positives": 2, "anchor_equals_positive": 1}


def test_examples_are_few_and_short():
    table = pa.table({"anchor": ["q"] * 9, "positive": ["<p> " + "x" * 500] * 9})
    examples = find_oddities(table)["html"]["examples"]
    assert len(examples) == 3
    assert all(len(one["positive"]) == SHOWN_CHARACTERS for one in examples)
