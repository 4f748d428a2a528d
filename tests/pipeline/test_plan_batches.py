"""Batch planning: duplicates kept apart or masked, one source per batch, and errors if no batch can be filled."""

import numpy as np
import pytest

from mnrl_job.batching.planning import PlanConfig, SourceShare, plan_epochs
from mnrl_job.data.pairs import SourceRecord
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import NO_GROUP, read_table
from mnrl_job.errors import DataError, SettingsError
from mnrl_job.pipeline.plan_batches import refuse_large_batch, refuse_without_contrast, write_plan
from tests.examples import PAIRS
from tests.pipeline.generated_pairs import generate_pairs


def test_a_source_too_small_for_a_batch_is_reported_and_the_others_are_trained_on(prepared, caplog):
    result = prepared(list(generate_pairs(20, "a")), [("lone question", "lone answer")], holdout_ratio=0, batch_size=8)
    assert "s1: its 1 pairs fill no batch of 8, so none of them is trained on" in caplog.text
    assert result.audit["batches"]["batches_an_epoch"] == {"s0": 2, "s1": 0}
    assert np.load(result.batch_plan.plan).max() < 20


def test_near_duplicates_never_share_a_batch_and_the_audit_counts_avoided_false_negatives(prepared):
    result = prepared(list(generate_pairs(40, copies=2)), holdout_ratio=0, batch_size=8, epochs=2)
    plan = np.load(result.batch_plan.plan)
    assert plan.shape == (10, 8)
    assert all(len(set((batch // 2).tolist())) == 8 for batch in plan)
    false_negatives = result.audit["batches"]["false_negatives_in_a_batch"]
    assert false_negatives["at_random"] == pytest.approx(8 * 7 / 39, abs=1e-3), (
        "of 39 other rows one is nearly the same"
    )
    assert false_negatives["as_planned"] == 0
    assert result.audit["batches"]["largest_batch_without_duplicates"] == 20


def test_duplicates_are_kept_apart_after_the_removal_of_earlier_rows(prepared):
    rows = list(generate_pairs(40, copies=2))
    result = prepared(rows, evals={"x": rows[0]}, batch_size=12)
    trained = read_table(result.pairs.path)["anchor"].to_pylist()
    assert len(trained) == 39
    number = np.array([int(anchor.split()[-1]) // 2 for anchor in trained])
    assert all(len(set(number[batch].tolist())) == 12 for batch in np.load(result.batch_plan.plan))


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


def test_every_row_is_used_if_texts_repeat_too_often_and_a_warning_has_the_masked_fraction(prepared, caplog):
    rows = [(f"{PAIRS[i % 8][0]} {i}", PAIRS[min(i % 16, 3)][1]) for i in range(48)]  # one positive has 39 rows
    result = prepared(rows, holdout_ratio=0, batch_size=4)
    batches = result.audit["batches"]
    assert np.load(result.batch_plan.plan).shape == (12, 4)
    assert batches["rows_used_an_epoch"] == 48
    false_negatives = batches["false_negatives_in_a_batch"]
    assert 0 < false_negatives["as_planned"] < false_negatives["at_random"]
    assert batches["masked_share_of_negatives"] == pytest.approx(false_negatives["as_planned"] / 12, abs=1e-3)
    assert batches["largest_batch_without_duplicates"] == 1
    assert "of the in-batch negatives are duplicates and masked; see `skew` in audit.json" in caplog.text


def test_the_warning_about_masking_has_the_batch_size_that_avoids_it(prepared, caplog):
    rows = [(f"question {i}", f"answer {i % 4}") for i in range(60)]
    prepared(rows, holdout_ratio=0, batch_size=12)
    assert "are duplicates and masked; with MNRL_BATCH_SIZE=4 or less none would be" in caplog.text


def test_the_largest_batch_without_duplicates_is_that_of_the_most_repetitive_source_in_use(prepared):
    repetitive = [(f"q{i}", f"a{i % 10}") for i in range(40)]
    unused = [("q", "a"), ("q", "b")]
    result = prepared(list(generate_pairs(60, "b")), repetitive, unused, holdout_ratio=0, batch_size=4)
    assert result.audit["batches"]["largest_batch_without_duplicates"] == 10


@pytest.mark.parametrize(("similarity", "largest", "groups"), [(0.9, 2, 1), (None, 4, 0)])
def test_near_duplicates_are_kept_apart_unless_that_is_off(prepared, similarity, largest, groups):
    long = "every invoice is listed under billing with a link and can be had as a file by mail or by post at any time"
    rows = [(f"{PAIRS[i % 8][0]} {i}", f"{long} {word}") for i, word in enumerate(["now", "later"] * 8)]
    rows += [(f"{PAIRS[i % 8][0]} again {i}", f"{PAIRS[i % 8][1]} {i}") for i in range(16)]
    result = prepared(rows, holdout_ratio=0, batch_size=8, near_duplicate_threshold=similarity)
    assert result.audit["batches"]["largest_batch_without_duplicates"] == largest
    assert result.audit["near_duplicates"]["groups"] == groups


def sources_of(*rows):
    return [SourceRecord(f"s{number}", "", 1, count, count, "", {}, ()) for number, count in enumerate(rows)]


def test_a_batch_larger_than_the_data_or_its_largest_source_is_refused():
    with pytest.raises(SettingsError, match=r"^MNRL_BATCH_SIZE=64 .*\b50 training pairs; .*\b50\b"):
        refuse_large_batch(sources_of(50), 64)
    with pytest.raises(SettingsError, match=r"^MNRL_BATCH_SIZE=64 .*\b40 training pairs of .*\b40\b"):
        refuse_large_batch(sources_of(30, 40), 64)


@pytest.mark.parametrize("negatives", [[], [NO_GROUP], [NO_GROUP, 7]])
def test_a_single_positive_is_refused_unless_there_are_negatives(negatives):
    groups = np.column_stack([np.arange(50), np.full(50, 99)])
    given = Ragged(np.array(negatives, dtype=np.int64), np.array([0] * 50 + [len(negatives)]))
    if 7 in negatives:
        refuse_without_contrast(groups, given)
        return
    with pytest.raises(DataError, match=r"^MNRL_TRAIN_DATA: .*\b50 .*\bthe same positive\b"):
        refuse_without_contrast(groups, given)


def test_a_single_anchor_is_refused(prepared):
    """All positives are relevant to it, so there is no negative."""
    with pytest.raises(DataError, match=r"^MNRL_TRAIN_DATA: .*\b12 .*\bthe same anchor\b"):
        prepared([("Question", positive) for _, positive in generate_pairs(12)], holdout_ratio=0, batch_size=4)


@pytest.mark.parametrize("max_steps", [None, 10, 17])
def test_the_file_of_a_plan_has_its_epochs_in_order(tmp_path, max_steps):
    groups, config = np.arange(160).reshape(-1, 2), PlanConfig(8, (SourceShare(80),), 1, 3, max_steps)
    write_plan(tmp_path / "plan.npy", groups, config)
    plan = np.load(tmp_path / "plan.npy")
    assert plan.shape == (max_steps or 30, 8)
    assert np.array_equal(plan, np.concatenate(list(plan_epochs(groups, config))))
