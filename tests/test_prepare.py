"""From pairs as read to what workers train on: leaks, holdout, and which batches are made, through the command line."""

import json

import numpy as np
import pytest

from mnrl_job.errors import DataError, SettingsError
from mnrl_job.prepare import choose_rule
from mnrl_job.records import SourceRecord
from mnrl_job.settings import Settings
from tests.conftest import PAIRS, write_jsonl, write_pairs

LEAKED = ("forgot my password", PAIRS[0][1])


def audit_of(tmp_path, run="r"):
    return json.loads((tmp_path / "out" / run / "audit.json").read_text(encoding="utf-8"))


@pytest.fixture
def leaky(tmp_path, good):
    """Nineteen pairs, of which one stands in the eval set, too."""
    rows = [(f"{anchor} {i}", f"{positive} {i} {i} {i}") for i in range(9) for anchor, positive in PAIRS[:2]]
    write_pairs(tmp_path / "pairs.jsonl", [*rows[:9], LEAKED, *rows[9:]])
    return good


def test_leaked_pairs_are_left_out_and_counted(mnrl_job, tmp_path, leaky):
    ended = mnrl_job("train", **leaky | {"MNRL_BATCH_SIZE": "6"})
    assert ended.code == 0, ended.stderr
    assert "1 of 19 training pairs also stand in an eval set (1 in faq); they are left out" in ended.stderr
    audit = audit_of(tmp_path)
    assert (audit["rows_usable"], audit["rows_removed_as_leaked"], audit["rows_to_train_on"]) == (19, 1, 18)
    assert audit["leakage"]["by_eval_set"] == {"faq": 1}
    assert audit["batches"]["rows_used_an_epoch"] == 18
    metrics = json.loads((tmp_path / "out" / "r" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["data"]["train"]["rows_used"] == 18


def test_leaked_pairs_end_the_run_where_they_must_not_be(mnrl_job, leaky):
    ended = mnrl_job("train", **leaky | {"MNRL_LEAKAGE": "fail"})
    assert ended.code == 65
    assert "1 of 19 training pairs also stand in an eval set (1 in faq), the first is 'forgot my" in ended.last_line
    assert "set MNRL_LEAKAGE=remove" in ended.last_line


def test_leaked_pairs_may_be_kept_and_are_told(mnrl_job, tmp_path, leaky):
    ended = mnrl_job("train", **leaky | {"MNRL_LEAKAGE": "keep", "MNRL_BATCH_SIZE": "6"})
    assert ended.code == 0, ended.stderr
    assert "the gain on it will look larger than it is" in ended.stderr
    assert audit_of(tmp_path)["rows_to_train_on"] == 19


def test_where_every_pair_is_leaked_there_is_nothing_to_train_on(mnrl_job, tmp_path, good):
    write_pairs(tmp_path / "pairs.jsonl", [LEAKED] * 8)
    ended = mnrl_job("train", **good)
    assert ended.code == 65
    assert "every training pair also stands in an eval set" in ended.last_line


def test_a_source_that_fills_no_batch_is_named_and_the_others_are_trained_on(mnrl_job, tmp_path, good):
    write_jsonl(tmp_path / "few.jsonl", [{"anchor": "lone question", "positive": "lone answer"}])
    ended = mnrl_job("train", **good | {"MNRL_TRAIN_DATA": "pairs.jsonl,few.jsonl"})
    assert ended.code == 0, ended.stderr
    assert "few: its 1 pairs fill no batch of 8, so none of them is trained on" in ended.stderr
    assert audit_of(tmp_path)["batches"]["batches_an_epoch"] == {"pairs": 1, "few": 0}


def rule_of(positives, sources=None, columns=2, **settings):
    rows = len(positives)
    groups = np.column_stack([10**6 + np.arange(rows), positives, *[10**7 + np.arange(rows)] * (columns - 2)])
    counts = sources or (rows,)
    records = [SourceRecord(f"s{i}", "", 1, count, count, "", {}, ()) for i, count in enumerate(counts)]
    return choose_rule(Settings(**settings), records, groups)


SEVENTY_SEVEN = np.arange(10_000) % 77


def test_where_77_positives_cannot_fill_a_batch_of_128_it_masks_and_says_so():
    rule, counts, why = rule_of(SEVENTY_SEVEN, batch_size=128)
    assert rule.masked
    assert counts == (78,)
    assert why == "10000 pairs have 77 distinct positives: kept apart they fill 0 of 78 batches of 128"


def test_where_77_positives_fill_a_batch_of_64_they_are_kept_apart():
    rule, counts, _ = rule_of(SEVENTY_SEVEN, batch_size=64)
    assert not rule.masked
    assert counts == (156,)


def test_planned_batches_that_cannot_be_filled_are_refused_with_a_remedy():
    with pytest.raises(SettingsError, match=r"128: no batch can be filled .* have 77 distinct .* MNRL_BATCHING=masked"):
        rule_of(SEVENTY_SEVEN, batch_size=128, batching="planned")


def test_masking_can_be_asked_for():
    rule, counts, _ = rule_of(np.arange(100), batch_size=10, batching="masked")
    assert rule.masked
    assert counts == (10,)


def test_a_batch_larger_than_the_data_or_its_largest_source_is_refused():
    with pytest.raises(SettingsError, match="larger than the 50 training pairs; set it to 50 or less"):
        rule_of(np.arange(50), batch_size=64)
    with pytest.raises(SettingsError, match="larger than the 40 training pairs of the largest source"):
        rule_of(np.arange(70), sources=(30, 40), batch_size=64)


def test_one_positive_for_all_teaches_nothing_unless_there_are_negatives():
    with pytest.raises(DataError, match="one positive between them, so there is nothing to tell it from"):
        rule_of(np.zeros(50, dtype=np.int64), batch_size=8)
    assert rule_of(np.zeros(50, dtype=np.int64), columns=3, batch_size=8)[0].masked
