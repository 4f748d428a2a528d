"""The audit's numbers, checked by hand on a small set; broken texts in any language."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.deduplication.audit import Leaks, audit
from mnrl_job.deduplication.groups import find_groups
from mnrl_job.deduplication.text_quality import MAX_CHARACTERS, describe_text_quality, example_pairs, shortened_texts
from tests.deduplication.rows import LONG

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


def test_repeated_rows_and_texts_are_counted(content):
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


def test_rows_are_accounted_for_from_reading_to_training(pairs, tmp_path, evalset):
    """Eight rows read and one rejected; two leaked, two held out."""
    read = replace(pairs(ROWS), rows_read=9, rejected={"empty": 1}, bad_rows=(BadRow("a.jsonl:3", "empty", "anchor"),))
    found = find_groups(read, None, 0.9, tmp_path / "texts")
    leaks = Leaks("remove", {"faq": np.arange(8) < 2, "other": np.arange(8) == 1})
    told = audit(read, replace(read, rows=4), found, leaks, (evalset("faq", [("q", "d")], others=["o"]),))
    rows = {name: told[f"rows_{name}"] for name in ("read", "usable", "removed_as_leaked", "held_out", "to_train_on")}
    assert rows == {"read": 9, "usable": 8, "removed_as_leaked": 2, "held_out": 2, "to_train_on": 4}
    assert told["rejected"] == {"empty": 1}
    assert told["rejected_rows"] == [{"where": "a.jsonl:3", "reason": "empty", "detail": "anchor"}]
    assert [(one["name"], one["rows"]) for one in told["sources"]] == [("faq", 8)]
    counts = {name: told["eval"]["faq"][name] for name in ("queries", "documents", "judgements")}
    assert counts == {"queries": 1, "documents": 2, "judgements": 2}
    json.dumps(told)


def test_pairs_are_repeated_regardless_of_spelling_and_negatives(pairs, tmp_path):
    read = pairs([("q", "answer one", "n"), (" Q", "ANSWER  one", "m"), ("q", "answer two", "n")])
    told = audit(read, read, find_groups(read, None, None, tmp_path / "texts"), Leaks("keep", {}), ())
    assert told["duplicates"]["repeated_rows"] == 1
    assert told["duplicates"]["anchors_with_several_positives"] == 1
    assert told["leakage"] == {"policy": "keep", "rows": 0, "by_eval_set": {}, "examples": []}


def test_near_duplicates_count_as_one_positive_and_the_largest_group_is_shown_first(pairs, tmp_path):
    other = " ".join(reversed(LONG.split()))
    read = pairs([("q1", f"{LONG} now"), ("q1", f"{LONG} later"), *((f"p{i}", f"{other} {i}") for i in range(3))])
    told = audit(read, read, find_groups(read, None, 0.9, tmp_path / "texts"), Leaks("keep", {}), ())
    assert told["duplicates"]["anchors_with_several_positives"] == 0
    assert told["duplicates"]["positives_with_several_anchors"] == 1
    near = told["near_duplicates"]
    assert (near["groups"], near["texts"], near["largest"]) == (2, 5, 3)
    assert [len(texts) for texts in near["examples"]] == [3, 2]


def odd(*positives, anchor="question"):
    table = pa.table({"anchor": [anchor] * len(positives), "positive": list(positives)})
    return {name: one["rows"] for name, one in describe_text_quality(table).items()}


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


@pytest.mark.parametrize(
    "text",
    [
        "привет, мир",
        "γειά σου Κόσμε",
        "שלום עולם",
        "مرحبا بك",
        "你好世界",
        "สวัสดีครับ",
        "नमस्ते दुनिया",
        "よろしく",
        "so 😀",
    ],
)
@pytest.mark.parametrize("wrong", ["latin-1", "cp1252"])
def test_mojibake_is_found_in_any_script(text, wrong):
    """Like editors, decode bytes without a character in Windows-1252 as control characters."""
    broken = "".join(
        bytes([byte]).decode(wrong, "ignore") or chr(byte) if wrong == "cp1252" else chr(byte) for byte in text.encode()
    )
    assert odd(f"this is {broken}")["mojibake"] == 1
    assert odd(f"this is {text}")["mojibake"] == 0


def test_ordinary_texts_have_no_quality_issue():
    innocent = [
        "S\u00c3O PAULO e \u00c2NGULO",
        "copy <file> to <dir>",
        "if a < b and c > d",
        "重置密码",
        "R&D and Q&A",
        "à la carte",
        "ATÉ AMANHÃ… disse: “ATÉ AMANHÔ — «AMANHû",
        "„Das macht Spaß“, sagte sie – „Spaß…“",
        "«café», 20°±2° à 5×10² £",
        "one\u00a0two",
    ]
    assert odd(*innocent) == {
        "mojibake": 0,
        "html": 0,
        "one_word_positives": 0,
        "words_for_missing_values": 0,
        "anchor_equals_positive": 0,
    }


def test_markup_single_words_and_equal_sides_are_quality_issues():
    found = odd("see <a href='x'>here</a>", "a &nbsp; b", "<BR/>line one", "it&#x27;s fine", "password", "question")
    assert found == {
        "mojibake": 0,
        "html": 4,
        "one_word_positives": 2,
        "words_for_missing_values": 0,
        "anchor_equals_positive": 1,
    }


def test_missing_values_are_counted_only_as_whole_texts():
    words = ["nan", "None", "NULL", "<NA>", "#N/A", "n/a", "NaT", "\\N", "#REF!", "undefined"]
    others = ["none of them", "nan bread", "(none", "a\nnull", "N", "#N/A?"]
    assert odd(*words, *others)["words_for_missing_values"] == len(words)


def test_examples_are_few_and_short():
    table = pa.table({"anchor": ["q"] * 9, "positive": ["<p> " + "x" * 500] * 9})
    examples = describe_text_quality(table)["html"]["examples"]
    assert len(examples) == 3
    assert all(len(one["positive"]) == MAX_CHARACTERS for one in examples)


def test_examples_are_taken_from_more_text_than_arrow_can_concatenate(huge):
    last = huge.num_rows - 1
    assert [row["anchor"][:4] for row in example_pairs(huge, np.array([7, last]))] == ["0007", "0399"]
    assert [text[:4] for text in shortened_texts(huge["positive"], np.array([last, 400]))] == ["0399", "0000"]
