"""The audit as people see it."""

import pytest

from mnrl_job.report.audit_page import audit_findings, page, with_lengths
from mnrl_job.training.results import TokenLengths


@pytest.fixture
def content():
    return {
        "rows_to_train_on": 90,
        "rows_held_out": 5,
        "negatives_held_out": 2,
        "rows_filtered": 7,
        "rejected": {"empty": 2},
        "sources": [{"name": "faq", "uri": "s3://b/faq.jsonl", "rows": 100}],
        "leakage": {
            "policy": "remove",
            "rows": 5,
            "by_eval_set": {"test": 5, "other": 0},
            "examples": [{"anchor": "a leaked\nquestion", "positive": "p"}],
        },
        "duplicates": {
            "repeated_rows": 3,
            "distinct_positives": 70,
            "anchors_with_several_positives": 4,
            "positives_with_several_anchors": 6,
        },
        "skew": {"most_rows_of_one": 12, "top": [{"rows": 12, "text": "very " * 100}, {"rows": 1, "text": "single"}]},
        "near_duplicates": {"groups": 2, "texts": 5, "largest": 3, "examples": [["one text", "one  text!"]]},
        "contradictions": {"negatives": 1, "examples": [{"anchor": "torn", "positive": "p"}]},
        "batches": {
            "mode": "planned",
            "why": "duplicates can be kept apart",
            "batch_size": 8,
            "batches_an_epoch": {"faq": 11},
            "rows_used_an_epoch": 88,
            "false_negatives_in_a_batch": {"at_random": 1.25, "as_planned": 0.0},
            "largest_batch_that_uses_nearly_all_rows": 30,
            "largest_batch_at_most": 60,
        },
        "oddities": {
            "html": {"rows": 1, "examples": [{"anchor": "q", "positive": "<b>x</b>"}]},
            "mojibake": {"rows": 0, "examples": []},
        },
    }


def lines_of(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_page_shows_what_matters_and_nothing_that_is_not_there(content):
    lines = lines_of(page(content))
    for line in (
        "100 faq (s3://b/faq.jsonl)",
        "2 rejected: empty",
        "7 not taken by MNRL_ROW_FILTER",
        "5 also in eval set test (remove)",
        "a leaked question",
        "2 negatives that are held out elsewhere; they are not used as negatives",
        "90 to train on",
        "3 rows that repeat another row",
        "6 positives with several anchors, the most frequent has 12 rows",
        "5 near-duplicate positives in 2 groups, the largest 3",
        "1 negatives that are positives of the same anchor",
        "11 batches of 8 from faq",
        "1.25 false negatives to be expected in a batch drawn at random",
        "0.0 in a batch of this run (planned)",
        "30 is the largest batch that uses 98 % of the rows",
        "1 html",
        "q | <b>x</b>",
    ):
        assert line in lines
    for absent in ("eval set other", "mojibake", "single", "Token lengths"):
        assert absent not in page(content)


def test_long_texts_are_cut_to_one_line(content):
    (line,) = [line for line in page(content).splitlines() if "very" in line]
    assert line.endswith("…")
    assert len(line) < 120


def test_of_many_repeated_texts_the_first_few_are_shown(content):
    content["skew"]["top"] = [{"rows": 20 - i, "text": f"frequent {i}"} for i in range(10)]
    content["near_duplicates"]["examples"] = [["one text", "one text!"], ["other text", "other text!"]]
    shown = page(content)
    assert [f"frequent {i}" in shown for i in range(10)] == [True] * 5 + [False] * 5
    assert "one text!" in shown
    assert "other text" not in shown


def test_what_a_terminal_would_obey_is_not_sent_to_it(content):
    content["leakage"]["examples"] = [{"anchor": "a\x1b[31mred\x9b0m\x07 question\r\nwith é and 你好", "positive": "p"}]
    lines = lines_of(page(content))
    assert "a\ufffd[31mred\ufffd0m\ufffd question with é and 你好" in lines


def test_a_page_of_flawless_data_shows_its_counts_alone(content):
    nothing = {"rows": 0, "examples": []}
    content |= {
        "rows_filtered": 0,
        "rejected": {},
        "rows_held_out": 0,
        "negatives_held_out": 0,
        "oddities": {"html": nothing},
    }
    content["leakage"] |= {"rows": 0, "by_eval_set": {"test": 0}, "examples": []}
    content["skew"] = {"most_rows_of_one": 1, "top": [{"rows": 1, "text": "single"}]}
    content["near_duplicates"] = {"groups": 0, "texts": 0, "largest": 1, "examples": []}
    content["contradictions"] = {"negatives": 0, "examples": []}
    shown = page(content)
    for absent in ("rejected", "MNRL_ROW_FILTER", "eval set", "held out", "single", "negatives that", "Odd texts"):
        assert absent not in shown
    assert [one.status for one in audit_findings(content)] == ["passed", "passed"]


def test_token_lengths_are_shown_where_the_model_counts_tokens(content):
    lengths = TokenLengths(50, 256, {"positive": {"p50": 40, "p90": 90, "p99": 300, "p100": 800, "truncated": 0.125}})
    lines = lines_of(page(with_lengths(content, lengths)))
    assert "in a sample of 50 rows; texts are cut at 256" in lines
    assert "positive: half have up to 40, 90 % 90, 99 % 300, the longest 800; 12.5% are cut" in lines
    assert with_lengths(content, None)["token_lengths"] is None


def test_what_should_be_mended_is_a_warning_with_a_remedy(content):
    findings = {one.check: one for one in audit_findings(content)}
    assert {name: one.status for name, one in findings.items()} == {
        "training pairs": "passed",
        "leakage": "warning",
        "contradictions": "warning",
        "batches": "passed",
    }
    assert all(one.remedy for one in findings.values() if one.status == "warning")
    scarce = content["batches"] | {"rows_used_an_epoch": 16}
    (batches,) = [one for one in audit_findings(content | {"batches": scarce}) if one.check == "batches"]
    assert batches.status == "warning"
    assert batches.remedy == "see the most frequent texts below, and the weights of the sources", (
        "30 is no smaller than 8"
    )
    larger = scarce | {"batch_size": 64, "rows_used_an_epoch": 0}
    (batches,) = [one for one in audit_findings(content | {"batches": larger}) if one.check == "batches"]
    assert batches.remedy == "a batch of 30 would use nearly all rows"
    (batches,) = [
        one
        for one in audit_findings(content | {"batches": larger | {"largest_batch_that_uses_nearly_all_rows": 1}})
        if one.check == "batches"
    ]
    assert "a batch of 1" not in batches.remedy
