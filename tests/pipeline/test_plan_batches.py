"""Batch planning: duplicates kept apart or masked, one source per batch, and errors if no batch can be filled."""

import numpy as np
import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import SourceRecord
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import NO_GROUP, read_table
from mnrl_job.errors import DataError, SettingsError
from mnrl_job.pipeline.plan_batches import choose_rule, refuse_without_contrast
from tests.examples import PAIRS
from tests.pipeline.generated_pairs import generate_pairs


def test_a_source_too_small_for_a_batch_is_reported_and_the_others_are_trained_on(prepared, caplog):
    result = prepared(list(generate_pairs(20, "a")), [("lone question", "lone answer")], holdout_ratio=0, batch_size=8)
    assert "s1: its 1 pairs fill no batch of 8, so none of them is trained on" in caplog.text
    assert result.audit["batches"]["batches_an_epoch"] == {"s0": 2, "s1": 0}
    assert np.load(result.batching.plan).max() < 20


def test_near_duplicates_never_share_a_batch_and_the_audit_counts_avoided_false_negatives(prepared):
    result = prepared(list(generate_pairs(40, copies=2)), holdout_ratio=0, batch_size=8, batching="planned", epochs=2)
    plan = np.load(result.batching.plan)
    assert plan.shape == (10, 8)
    assert all(len(set((batch // 2).tolist())) == 8 for batch in plan)
    false_negatives = result.audit["batches"]["false_negatives_in_a_batch"]
    assert false_negatives["at_random"] == pytest.approx(8 * 7 / 39, abs=1e-3), (
        "of 39 other rows one is nearly the same"
    )
    assert false_negatives["as_planned"] == 0
    assert result.audit["batches"]["largest_batch_at_most"] == 20


def test_duplicates_are_kept_apart_after_the_removal_of_earlier_rows(prepared):
    rows = list(generate_pairs(40, copies=2))
    result = prepared(rows, evals={"x": rows[0]}, batch_size=12, batching="planned")
    trained = read_table(result.pairs.path)["anchor"].to_pylist()
    assert len(trained) == 39
    number = np.array([int(anchor.split()[-1]) // 2 for anchor in trained])
    assert all(len(set(number[batch].tolist())) == 12 for batch in np.load(result.batching.plan))


def test_the_largest_batch_is_limited_by_the_largest_source(prepared):
    result = prepared(list(generate_pairs(60, "a")), list(generate_pairs(40, "b")), holdout_ratio=0, batch_size=4)
    assert result.audit["batches"]["largest_batch_at_most"] == 60
    assert result.audit["batches"]["largest_batch_that_uses_nearly_all_rows"] == 40


def test_the_largest_batch_at_most_can_be_filled(prepared):
    """Three anchors and three positives, but no three rows that share neither."""
    pairs = [("q1", "one answer"), ("q1", "two answers"), ("q2", "third"), ("q3", "third")]
    result = prepared(pairs, holdout_ratio=0, batch_size=2, batching="planned")
    assert result.audit["batches"]["largest_batch_at_most"] == 2
    assert np.load(result.batching.plan).shape == (2, 2)


def test_a_small_source_does_not_hide_how_large_a_batch_may_be(prepared):
    result = prepared(list(generate_pairs(200, "a")), list(generate_pairs(2, "b")), holdout_ratio=0, batch_size=4)
    assert result.audit["batches"]["largest_batch_that_uses_nearly_all_rows"] == 200


def test_weighted_sources_are_refused_if_one_fills_no_batch(prepared):
    with pytest.raises(SettingsError, match=r"^MNRL_BATCH_SIZE=8 .*\b5 training pairs of s1\b.*MNRL_TRAIN_DATA"):
        prepared(
            list(generate_pairs(40, "a")),
            list(generate_pairs(5, "b")),
            weights=(2.0, 1.0),
            holdout_ratio=0,
            batch_size=8,
        )


def test_a_source_whose_weight_gives_it_no_batch_causes_a_warning(prepared, caplog):
    result = prepared(
        list(generate_pairs(40, "a")),
        list(generate_pairs(40, "b")),
        weights=(1000.0, 1.0),
        holdout_ratio=0,
        batch_size=8,
    )
    assert result.audit["batches"]["batches_an_epoch"] == {"s0": 5, "s1": 0}
    assert "s1: its 40 pairs get no batch by the weights, so none of them is trained on" in caplog.text
    assert "a smaller MNRL_BATCH_SIZE or other weights may use more" in caplog.text


def test_planned_batches_that_leave_many_rows_unused_cause_a_warning(prepared, caplog):
    rows = [(f"{PAIRS[i % 8][0]} {i}", PAIRS[min(i % 16, 3)][1]) for i in range(48)]
    result = prepared(rows, holdout_ratio=0, batch_size=4, batching="planned")
    assert np.load(result.batching.plan).shape == (3, 4), "the rarest positive has three rows"
    assert result.audit["batches"]["rows_used_an_epoch"] == 12
    assert "3 batches of 4 use 12 of 48 pairs an epoch; a smaller MNRL_BATCH_SIZE may use more" in caplog.text


@pytest.mark.parametrize(("similarity", "distinct", "groups"), [(0.9, 17, 1), (None, 18, 0)])
def test_near_duplicates_are_kept_apart_unless_that_is_off(prepared, similarity, distinct, groups):
    long = "every invoice is listed under billing with a link and can be had as a file by mail or by post at any time"
    rows = [(f"{PAIRS[i % 8][0]} {i}", f"{long} {word}") for i, word in enumerate(["now", "later"] * 8)]
    rows += [(f"{PAIRS[i % 8][0]} again {i}", f"{PAIRS[i % 8][1]} {i}") for i in range(16)]
    result = prepared(rows, holdout_ratio=0, batch_size=8, near_duplicate_threshold=similarity)
    assert result.audit["batches"]["largest_batch_at_most"] == distinct
    assert result.audit["near_duplicates"]["groups"] == groups


def test_duplicates_are_masked_if_a_text_that_is_anchor_and_positive_prevents_the_only_batch(prepared):
    rows = list(generate_pairs(8))
    rows[1] = (rows[1][0], rows[0][0])
    result = prepared(rows, holdout_ratio=0, batch_size=8)
    assert (result.batching.mode, result.batching.steps) == ("masked", 1)
    assert result.audit["batches"]["false_negatives_in_a_batch"]["as_planned"] == 0, "as they are masked"
    assert (
        result.audit["batches"]["why"] == "8 pairs have 8 distinct positives: kept apart they fill 0 of 1 batches of 8"
    )


def test_a_text_that_is_anchor_and_positive_is_refused_if_planned_batches_cannot_be_filled(prepared):
    rows = list(generate_pairs(8))
    rows[1] = (rows[1][0], rows[0][0])
    with pytest.raises(SettingsError, match=r"^MNRL_BATCH_SIZE=8: .*\b7 or less.*MNRL_BATCHING=masked"):
        prepared(rows, holdout_ratio=0, batch_size=8, batching="planned")


def rule_of(positives, sources=None, **settings):
    rows = len(positives)
    groups = np.column_stack([10**6 + np.arange(rows), positives])
    counts = sources or (rows,)
    records = [SourceRecord(f"s{i}", "", 1, count, count, "", {}, ()) for i, count in enumerate(counts)]
    return choose_rule(Settings(**settings), records, groups)


SEVENTY_SEVEN = np.arange(10_000) % 77


def test_77_positives_cannot_fill_a_batch_of_128_so_duplicates_are_masked():
    rule, counts, why = rule_of(SEVENTY_SEVEN, batch_size=128)
    assert rule.masked
    assert counts == (78,)
    assert why == "10000 pairs have 77 distinct positives: kept apart they fill 0 of 78 batches of 128"


@pytest.mark.parametrize("batching", ["auto", "planned"])
def test_the_message_names_anchors_if_they_are_what_repeats(batching, caplog):
    groups = np.column_stack([SEVENTY_SEVEN, 10**6 + np.arange(10_000)])
    record = SourceRecord("s", "", 1, 10_000, 10_000, "", {}, ())
    try:
        reason = choose_rule(Settings(batch_size=128, batching=batching), [record], groups)[2]
    except SettingsError as error:
        reason = str(error)
    assert "10000 pairs have 77 distinct anchors" in reason
    if batching == "auto":
        assert "so duplicates may meet in a batch, and do not count as negatives (MNRL_BATCHING=masked)" in caplog.text


def test_77_positives_fill_a_batch_of_64_so_duplicates_are_kept_apart():
    rule, counts, _ = rule_of(SEVENTY_SEVEN, batch_size=64)
    assert not rule.masked
    assert counts == (156,)


def test_planned_batches_that_cannot_be_filled_are_refused_with_a_feasible_size():
    with pytest.raises(SettingsError, match=r"^MNRL_BATCH_SIZE=128: .*\b77 distinct positives.*\b77 or less"):
        rule_of(SEVENTY_SEVEN, batch_size=128, batching="planned")
    assert rule_of(SEVENTY_SEVEN, batch_size=77, batching="planned")[1] == (129,)


def test_only_masking_is_suggested_if_no_batch_can_be_filled():
    with pytest.raises(SettingsError, match=r"\b1 distinct positives; (?!.*or less).*MNRL_BATCHING=masked"):
        rule_of(np.zeros(50, dtype=np.int64), batch_size=8, batching="planned")


def test_masking_can_be_asked_for():
    rule, counts, _ = rule_of(np.arange(100), batch_size=10, batching="masked")
    assert rule.masked
    assert counts == (10,)


def test_a_batch_larger_than_the_data_or_its_largest_source_is_refused():
    with pytest.raises(SettingsError, match=r"^MNRL_BATCH_SIZE=64 .*\b50 training pairs; .*\b50\b"):
        rule_of(np.arange(50), batch_size=64)
    with pytest.raises(SettingsError, match=r"^MNRL_BATCH_SIZE=64 .*\b40 training pairs of .*\b40\b"):
        rule_of(np.arange(70), sources=(30, 40), batch_size=64)


@pytest.mark.parametrize("negatives", [[], [NO_GROUP], [NO_GROUP, 7]])
def test_a_single_positive_is_refused_unless_there_are_negatives(negatives):
    groups = np.column_stack([np.arange(50), np.full(50, 99)])
    given = Ragged(np.array(negatives, dtype=np.int64), np.array([0] * 50 + [len(negatives)]))
    if 7 in negatives:
        refuse_without_contrast(groups, given)
        return
    with pytest.raises(DataError, match=r"^MNRL_TRAIN_DATA: .*\b50 .*\bone positive\b"):
        refuse_without_contrast(groups, given)


def test_a_single_anchor_is_refused(prepared):
    """All positives are relevant to it, so there is no negative."""
    with pytest.raises(DataError, match=r"^MNRL_TRAIN_DATA: .*\b12 .*\bone anchor\b"):
        prepared([("Question", positive) for _, positive in generate_pairs(12)], holdout_ratio=0, batch_size=4)
