"""The audit in `check`."""

import pytest

from mnrl_job.report.audit import audit_findings, audit_rows, show_audit, with_lengths
from mnrl_job.training.results import TokenLengths


@pytest.fixture
def audit():
    return {
        "rows_to_train_on": 90,
        "rows_held_out": 5,
        "negatives_held_out": 2,
        "rows_filtered": 7,
        "rejected": {"empty": 2},
        "rejected_rows": [{"where": "faq.jsonl:7", "reason": "empty", "detail": "no anchor"}],
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
            "batch_size": 8,
            "batches_an_epoch": {"faq": 11},
            "rows_used_an_epoch": 88,
            "false_negatives_in_a_batch": {"at_random": 1.25, "as_planned": 0.25},
            "masked_share_of_negatives": 0.0045,
            "largest_batch_without_duplicates": 30,
        },
        "oddities": {
            "html": {"rows": 1, "examples": [{"anchor": "q", "positive": "<b>x</b>"}]},
            "mojibake": {"rows": 0, "examples": []},
        },
    }


def audit_text(audit):
    return "\n".join(f"{number} {line}" for number, line in audit_rows(audit))


def lines_of(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_text_has_all_findings_and_nothing_that_was_not_found(audit):
    lines = lines_of(audit_text(audit))
    for line in (
        "100 faq (s3://b/faq.jsonl)",
        "2 rows rejected: By reason: empty 2.",
        "faq.jsonl:7 empty: no anchor",
        "7 rows excluded by MNRL_ROW_FILTER",
        "5 rows held out",
        "5 pairs leaked: They are also in an eval set: test 5. They were removed.",
        "anchor a leaked question | positive p",
        "2 negatives held out elsewhere: They are not used as negatives.",
        "90 to train on",
        "3 rows that repeat another row exactly",
        "6 documents with several queries",
        "12 rows of the most frequent document",
        "5 near-duplicate documents: In 2 groups, the largest of 3; a group counts as one.",
        "1 contradictory negatives: They are positives of the same query in other rows, and not used as negatives.",
        "11 batches of 8 from faq",
        "0.2 false negatives in a batch, before masking: A random batch would contain 1.2. They are masked in the "
        "loss.",
        "1 pairs with markup",
        "anchor q | positive <b>x</b>",
    ):
        assert line in lines
    for absent in ("other 0", "mojibake", "single", "truncated", "largest batch size"):
        assert absent not in audit_text(audit)


def test_long_examples_are_truncated_to_one_line(audit):
    (line,) = [line for line in audit_text(audit).splitlines() if "very" in line]
    assert line.endswith("…")
    assert len(line) < 120


def test_the_first_few_of_many_examples_are_shown(audit):
    audit["skew"]["top"] = [{"rows": 20 - i, "text": f"frequent {i}"} for i in range(10)]
    audit["near_duplicates"]["examples"] = [["one text", "one text!"], ["other text", "other text!"]]
    shown = audit_text(audit)
    assert [f"frequent {i}" in shown for i in range(10)] == [True] * 5 + [False] * 5
    assert "one text!" in shown


def test_control_characters_are_replaced(audit, capsys):
    audit["leakage"]["examples"] = [{"anchor": "a\x1b[31mred\x9b0m\x07 question\r\nwith é and 你好", "positive": "p"}]
    show_audit(audit)
    lines = lines_of(capsys.readouterr().out)
    assert "anchor a\ufffd[31mred\ufffd0m\ufffd question with é and 你好 | positive p" in lines


def test_flawless_data_has_only_counts(audit):
    nothing = {"rows": 0, "examples": []}
    audit |= {
        "rows_filtered": 0,
        "rejected": {},
        "rows_held_out": 0,
        "negatives_held_out": 0,
        "oddities": {"html": nothing},
    }
    audit["leakage"] |= {"rows": 0, "by_eval_set": {"test": 0}, "examples": []}
    audit["skew"] = {"most_rows_of_one": 1, "top": [{"rows": 1, "text": "single"}]}
    audit["near_duplicates"] = {"groups": 0, "texts": 0, "largest": 1, "examples": []}
    audit["contradictions"] = {"negatives": 0, "examples": []}
    audit["batches"]["false_negatives_in_a_batch"] = {"at_random": 0.04, "as_planned": 0.0}
    shown = audit_text(audit)
    for absent in (
        "rejected",
        "MNRL_ROW_FILTER",
        "eval set",
        "held out",
        "single",
        "contradictory",
        "false negatives",
        "markup",
    ):
        assert absent not in shown
    assert [finding.status for finding in audit_findings(audit)] == ["passed", "passed"]


def test_truncated_texts_are_reported_with_token_lengths(audit):
    lengths = TokenLengths(50, 256, {"positive": {"p50": 40, "p90": 90, "p99": 300, "p100": 800, "truncated": 0.125}})
    lines = lines_of(audit_text(with_lengths(audit, lengths)))
    expected = "of the positive texts are truncated: Tokens: median 40, 90 % up to 90, 99 % up to 300, the longest 800."
    assert f"12.5 % {expected}" in lines
    assert "positive tokens: median 40, 90 % up to 90, 99 % up to 300, the longest 800" in lines
    assert with_lengths(audit, None)["token_lengths"] is None


def test_problems_are_warnings_with_a_remedy(audit):
    findings = {finding.check: finding for finding in audit_findings(audit)}
    assert {name: finding.status for name, finding in findings.items()} == {
        "training pairs": "passed",
        "leakage": "warning",
        "contradictions": "warning",
        "batches": "passed",
    }
    assert all(finding.remedy for finding in findings.values() if finding.status == "warning")


@pytest.mark.parametrize(
    ("facts", "remedy"),
    [
        ({"rows_used_an_epoch": 16}, "lower the batch size, or change the weights of the sources"),
        ({"masked_share_of_negatives": 0.2}, "a batch size of 30 or less avoids that"),
        (
            {"masked_share_of_negatives": 0.2, "largest_batch_without_duplicates": 1},
            "see the most frequent texts below",
        ),
    ],
)
def test_batches_that_waste_rows_or_negatives_are_a_warning(audit, facts, remedy):
    batches = audit["batches"] | facts
    (finding,) = [one for one in audit_findings(audit | {"batches": batches}) if one.check == "batches"]
    assert (finding.status, finding.remedy) == ("warning", remedy)


def test_the_largest_batch_without_duplicates_is_shown_if_it_is_smaller_than_the_batch(audit):
    audit["batches"]["largest_batch_without_duplicates"] = 4
    assert "4 is the largest batch size without duplicates in a batch" in lines_of(audit_text(audit))
