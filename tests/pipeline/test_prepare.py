"""From pairs as read to what workers train on: leaks, holdout, and which batches are made, through the command line."""

import json
import re
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest

from mnrl_job.config.setting_types import Hardness, Source
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import SourceRecord
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.read_evalset import write_evalset
from mnrl_job.data.tables import NO_GROUP, read_groups, read_negatives, read_table, texts_of
from mnrl_job.errors import DataError, SettingsError
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.pipeline.plan_batches import choose_rule, refuse_without_contrast
from mnrl_job.pipeline.prepare import prepare
from mnrl_job.runs.attempt import Attempt
from mnrl_job.runs.attempt_history import AttemptHistory
from mnrl_job.runs.status import Status
from tests.data.reading import read
from tests.examples import LEAKED, PAIRS, write_jsonl, write_pairs


def test_leaked_pairs_are_left_out_and_counted(published):
    assert "1 of 10 training pairs also stand in an eval set (1 in faq); they are left out" in published.said
    audit = json.loads((published.run / "audit.json").read_text(encoding="utf-8"))
    assert (audit["rows_usable"], audit["rows_removed_as_leaked"], audit["rows_to_train_on"]) == (10, 1, 9)
    assert audit["leakage"]["by_eval_set"] == {"faq": 1}
    assert audit["batches"]["rows_used_an_epoch"] == 8
    metrics = json.loads((published.run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["data"]["train"]["rows_used"] == 8


def test_leaked_pairs_end_the_run_where_they_must_not_be(mnrl_job, tmp_path, good):
    write_pairs(tmp_path / "pairs.jsonl", [*PAIRS, LEAKED])
    ended = mnrl_job("train", **good | {"MNRL_LEAKAGE_POLICY": "fail"})
    assert ended.code == 65
    assert re.search(r"\b1 of 9 training pairs .*\(1 in faq\).*'get an", ended.last_line)
    assert "MNRL_LEAKAGE_POLICY=remove" in ended.last_line


def test_where_every_pair_is_leaked_there_is_nothing_to_train_on(mnrl_job, tmp_path, good):
    write_pairs(tmp_path / "pairs.jsonl", [LEAKED] * 8)
    ended = mnrl_job("train", **good)
    assert ended.code == 65
    assert "MNRL_LEAKAGE_POLICY=keep" in ended.last_line


@pytest.fixture
def prepared(tmp_path):
    """What `prepare` makes of sources, each a list of pairs or triplets, and of eval sets.

    These are (query, relevant document) by name.
    """

    def run(*sources, evals=None, weights=None, **settings):
        paths = [
            write_jsonl(tmp_path / f"s{i}.jsonl", ({"query": a, "pos": p, "neg": n} for a, p, *n in rows))
            for i, rows in enumerate(sources)
        ]
        named = [
            Source(f"s{i}", str(path), weight)
            for i, (path, weight) in enumerate(zip(paths, weights or [None] * len(paths), strict=True))
        ]
        pairs, _ = read(tmp_path, *named)
        eval_sets = tuple(
            write_evalset(name, name, tmp_path / "eval" / name, {"q": query}, {"d": document}, {("q", "d"): 1})
            for name, (query, document) in (evals or {}).items()
        )
        scratch = tmp_path / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "eval").mkdir(parents=True)
        status = Status(scratch / "progress.json", "r", grace_seconds=30, hang_seconds=600)
        care = WorkerTimeouts(hang_seconds=60, grace_seconds=30)
        folders = (scratch, scratch / "run", scratch)
        place = Attempt("r", datetime.now(UTC), "", "", *folders, "auto", status, AttemptHistory("r"), care)
        return prepare(Settings(**settings), place, pairs, eval_sets, workers=2)

    return run


def made_up(count, prefix="", copies=1):
    """Pairs of different anchors; so many in a row have nearly the same positive."""
    for i in range(count):
        words = " ".join(f"{prefix}{i // copies}word{at}" for at in range(60))
        yield f"{prefix} question {i}", f"{words} {i % copies}"


def test_rows_of_each_source_are_counted_again_without_the_leaked_ones(prepared):
    one, two = list(made_up(20, "a")), list(made_up(12, "b"))
    out = prepared(one, two, evals={"x": one[3], "y": two[0], "z": ("q", "d")}, batch_size=4)
    assert [source.rows for source in out.pairs.sources] == [19, 11]
    assert [one["rows"] for one in out.audit["sources"]] == [20, 12], "as they were read"
    assert out.audit["leakage"]["by_eval_set"] == {"x": 1, "y": 1, "z": 0}
    assert out.audit["batches"]["batches_an_epoch"] == {"s0": 4, "s1": 2}
    trained = read_table(out.pairs.path).to_pylist()
    assert [(row["anchor"], row["positive"]) for row in trained] == [*one[:3], *one[4:], *two[1:]]
    plan = np.load(out.batching.plan)
    assert sorted((batch < 19).sum() for batch in plan) == [0] * 2 + [4] * 4, "a batch is of one source"


@pytest.mark.parametrize("policy", ["keep", "remove", "fail"])
def test_leaked_pairs_are_kept_removed_or_end_the_run(prepared, caplog, policy):
    rows = list(made_up(20))
    settings = {"evals": {"x": rows[3]}, "leakage_policy": policy, "batch_size": 4}
    if policy == "fail":
        with pytest.raises(DataError, match=r"\b1 of 20 training pairs .*\(1 in x\).*MNRL_LEAKAGE_POLICY=remove"):
            prepared(rows, **settings)
        return
    out = prepared(rows, **settings)
    told = {"keep": "the gain on it will look larger than it is", "remove": "they are left out"}
    assert f"1 of 20 training pairs also stand in an eval set (1 in x); {told[policy]}" in caplog.text
    assert out.audit["leakage"]["policy"] == policy
    assert out.audit["leakage"]["rows"] == 1
    assert (out.audit["rows_removed_as_leaked"], out.pairs.rows) == ((0, 20) if policy == "keep" else (1, 19))


def test_a_source_that_fills_no_batch_is_named_and_the_others_are_trained_on(prepared, caplog):
    out = prepared(list(made_up(20, "a")), [("lone question", "lone answer")], holdout_ratio=0, batch_size=8)
    assert "s1: its 1 pairs fill no batch of 8, so none of them is trained on" in caplog.text
    assert out.audit["batches"]["batches_an_epoch"] == {"s0": 2, "s1": 0}
    assert np.load(out.batching.plan).max() < 20


def test_a_near_copy_of_an_eval_pair_is_removed_and_what_shares_only_a_side_is_kept(prepared):
    rows = list(made_up(20))
    question, answer = f"{rows[0][0]} {'please tell me soon ' * 6}", rows[0][1]
    rows[1] = (f"{question}?", f"{answer} indeed")
    rows[2], rows[3] = (question, rows[2][1]), (rows[3][0], answer)
    out = prepared(rows, evals={"x": (question, answer)}, batch_size=4)
    assert out.audit["rows_removed_as_leaked"] == 1
    assert rows[1][0] not in read_table(out.pairs.path)["anchor"].to_pylist()


def test_without_eval_data_nothing_near_what_is_held_out_is_trained_on(prepared):
    out = prepared(list(made_up(200, copies=2)), holdout_ratio=0.2, batch_size=4)
    assert out.audit["rows_held_out"] == 40
    assert out.audit["rows_to_train_on"] == out.pairs.rows == 160
    (held,) = out.eval_sets
    assert (held.name, held.queries, held.documents) == ("holdout", 40, 100)
    asked = read_table(held.folder / "queries.arrow")["text"].to_pylist()
    trained = read_table(out.pairs.path)
    assert not set(asked) & set(trained["anchor"].to_pylist())
    number = {anchor: int(anchor.split()[-1]) // 2 for anchor in [*asked, *trained["anchor"].to_pylist()]}
    assert not {number[one] for one in asked} & {number[one] for one in trained["anchor"].to_pylist()}


def test_nothing_near_what_is_held_out_is_a_negative(prepared):
    """Each row's negative is nearly the positive of another."""
    pairs = list(made_up(200, copies=2))
    rows = [(*pair, f"{pairs[(i + 2) % 200][1]}0") for i, pair in enumerate(pairs)]
    out = prepared(rows, holdout_ratio=0.2, batch_size=4)
    trained = read_table(out.pairs.path)
    positives, negatives = (
        [text.split("word")[0] for text in texts_of(trained, name).to_pylist()] for name in out.pairs.columns[1:]
    )
    near = np.array([number not in positives for number in negatives])
    assert near.sum() == out.audit["negatives_held_out"] > 20
    assert np.array_equal(read_negatives(out.batching.labels).values == NO_GROUP, near)


def test_without_eval_data_and_holdout_the_user_is_told_what_is_lost(prepared, caplog):
    out = prepared(list(made_up(20)), holdout_ratio=0, batch_size=4)
    assert out.eval_sets == ()
    assert out.audit["rows_to_train_on"] == 20
    assert "this run cannot say whether the model became better" in caplog.text


def test_near_duplicates_never_meet_in_a_batch_and_the_audit_says_what_that_saves(prepared):
    out = prepared(list(made_up(40, copies=2)), holdout_ratio=0, batch_size=8, batching="planned", epochs=2)
    plan = np.load(out.batching.plan)
    assert plan.shape == (10, 8)
    assert all(len(set((batch // 2).tolist())) == 8 for batch in plan)
    wrong = out.audit["batches"]["false_negatives_in_a_batch"]
    assert wrong["at_random"] == pytest.approx(8 * 7 / 39, abs=1e-3), "of 39 other rows one is nearly the same"
    assert wrong["as_planned"] == 0
    assert out.audit["batches"]["largest_batch_at_most"] == 20


def test_what_is_the_same_is_kept_apart_also_where_rows_before_it_were_removed(prepared):
    rows = list(made_up(40, copies=2))
    out = prepared(rows, evals={"x": rows[0]}, batch_size=12, batching="planned")
    trained = read_table(out.pairs.path)["anchor"].to_pylist()
    assert len(trained) == 39
    number = np.array([int(anchor.split()[-1]) // 2 for anchor in trained])
    assert all(len(set(number[batch].tolist())) == 12 for batch in np.load(out.batching.plan))


def test_workers_learn_of_each_text_which_group_it_is_of_and_which_negatives_not_to_trust(prepared):
    rows = [(*pair, f"no {pair[1]}") for pair in made_up(8)]
    rows[1] = (rows[1][0], rows[1][1], rows[2][1])  # answers another row
    rows[4] = (rows[3][0], "another answer", rows[3][1])  # a positive of its anchor
    out = prepared(rows, holdout_ratio=0, batch_size=2)
    groups, negatives = read_groups(out.batching.labels), read_negatives(out.batching.labels)
    assert groups.shape == (8, 2)
    assert negatives.counts.tolist() == [1] * 8
    assert negatives.values[1] == groups[2, 1]
    assert groups[3, 0] == groups[4, 0]
    assert np.flatnonzero(negatives.values == NO_GROUP).tolist() == [4]
    assert out.audit["contradictions"]["negatives"] == 1


def test_a_batch_is_of_one_source_so_the_largest_is_that_of_one(prepared):
    out = prepared(list(made_up(60, "a")), list(made_up(40, "b")), holdout_ratio=0, batch_size=4)
    assert out.audit["batches"]["largest_batch_at_most"] == 60
    assert out.audit["batches"]["largest_batch_that_uses_nearly_all_rows"] == 40


def test_the_largest_batch_at_most_can_be_filled(prepared):
    """Three anchors and three positives, but no three rows that share neither."""
    pairs = [("q1", "one answer"), ("q1", "two answers"), ("q2", "third"), ("q3", "third")]
    out = prepared(pairs, holdout_ratio=0, batch_size=2, batching="planned")
    assert out.audit["batches"]["largest_batch_at_most"] == 2
    assert np.load(out.batching.plan).shape == (2, 2)


def test_a_small_source_does_not_hide_how_large_a_batch_may_be(prepared):
    out = prepared(list(made_up(200, "a")), list(made_up(2, "b")), holdout_ratio=0, batch_size=4)
    assert out.audit["batches"]["largest_batch_that_uses_nearly_all_rows"] == 200


def test_hard_negatives_can_be_weighed_only_where_there_are_some(prepared):
    wanted = {"batch_size": 4, "hardness": Hardness("hard_negatives", 5)}
    with pytest.raises(SettingsError, match=r"^MNRL_HARDNESS=hard_negatives:5: .*MNRL_NUM_HARD_NEGATIVES"):
        prepared(list(made_up(8)), **wanted)


def test_rows_whose_list_is_empty_stand_beside_rows_with_many(prepared):
    rows = list(made_up(20))
    rows[7] = (*rows[7], *(f"not {i}" for i in range(400)))
    out = prepared(rows, evals={"x": rows[3]}, batch_size=4)
    assert out.pairs.columns == ("anchor", "positive", "negatives")
    assert read_negatives(out.batching.labels).counts.tolist() == [0] * 6 + [400] + [0] * 12
    assert [len(texts) for texts in read_table(out.pairs.path)["negatives"].to_pylist()] == [0] * 6 + [400] + [0] * 12


@pytest.mark.parametrize("wanted", [{"evals": {"x": ("question 3", "answer 3")}}, {"holdout_ratio": 0.5}])
def test_where_the_only_row_with_negatives_is_left_out_there_are_none(prepared, wanted):
    """It is leaked, or held out with the nine others that share its answer."""
    rows = [("question 3", "answer 3", "not this", "nor that")] + [(f"q{i}", "answer 3") for i in range(9)]
    chain = [(f"b{i // 2}", f"answer of b{(i + 1) // 2}") for i in range(11)]
    rows += chain if "holdout_ratio" in wanted else list(made_up(11, "b"))
    out = prepared(rows, batch_size=2, batching="masked", **wanted)
    assert out.pairs.columns == ("anchor", "positive")
    assert not len(read_negatives(out.batching.labels).values)
    assert read_table(out.pairs.path).column_names == ["anchor", "positive"]
    with pytest.raises(SettingsError, match=r"^MNRL_HARDNESS=hard_negatives:5: "):
        prepared(rows, batch_size=2, batching="masked", hardness=Hardness("hard_negatives", 5), **wanted)


def test_those_that_will_be_mined_can_be_weighed(prepared):
    wanted = {"batch_size": 4, "hardness": Hardness("hard_negatives", 5), "holdout_ratio": 0}
    assert prepared(list(made_up(8)), **wanted, num_hard_negatives=1).batching.steps == 2


def test_documents_relevant_in_an_eval_set_are_not_to_be_mined(prepared):
    rows = list(made_up(20))
    asked = (f"about {rows[3][0]}", f"{rows[3][1]}!")
    out = prepared(rows, evals={"x": asked}, num_hard_negatives=1, batch_size=4)
    assert np.flatnonzero(np.load(out.batching.barred)).tolist() == [3]


def test_weighted_sources_of_which_one_fills_no_batch_would_train_nothing_and_are_refused(prepared):
    with pytest.raises(SettingsError, match=r"^MNRL_BATCH_SIZE=8 .*\b5 training pairs of s1\b.*MNRL_TRAIN_DATA"):
        prepared(list(made_up(40, "a")), list(made_up(5, "b")), weights=(2.0, 1.0), holdout_ratio=0, batch_size=8)


def test_a_source_without_a_batch_by_its_weight_is_told_so(prepared, caplog):
    out = prepared(list(made_up(40, "a")), list(made_up(40, "b")), weights=(1000.0, 1.0), holdout_ratio=0, batch_size=8)
    assert out.audit["batches"]["batches_an_epoch"] == {"s0": 5, "s1": 0}
    assert "s1: its 40 pairs get no batch by the weights, so none of them is trained on" in caplog.text
    assert "a smaller MNRL_BATCH_SIZE or other weights may use more" in caplog.text


def test_planned_batches_use_what_they_can_and_the_user_is_told(prepared, caplog):
    few = [(f"{PAIRS[i % 8][0]} {i}", PAIRS[min(i % 16, 3)][1]) for i in range(48)]
    out = prepared(few, holdout_ratio=0, batch_size=4, batching="planned")
    assert np.load(out.batching.plan).shape == (3, 4), "the rarest positive has three rows"
    assert out.audit["batches"]["rows_used_an_epoch"] == 12
    assert "3 batches of 4 use 12 of 48 pairs an epoch; a smaller MNRL_BATCH_SIZE may use more" in caplog.text


@pytest.mark.parametrize(("similarity", "distinct", "groups"), [(0.9, 17, 1), (None, 18, 0)])
def test_near_duplicates_are_kept_apart_unless_that_is_off(prepared, similarity, distinct, groups):
    long = "every invoice is listed under billing with a link and can be had as a file by mail or by post at any time"
    rows = [(f"{PAIRS[i % 8][0]} {i}", f"{long} {word}") for i, word in enumerate(["now", "later"] * 8)]
    rows += [(f"{PAIRS[i % 8][0]} again {i}", f"{PAIRS[i % 8][1]} {i}") for i in range(16)]
    out = prepared(rows, holdout_ratio=0, batch_size=8, near_duplicate_threshold=similarity)
    assert out.audit["batches"]["largest_batch_at_most"] == distinct
    assert out.audit["near_duplicates"]["groups"] == groups


def test_where_a_text_that_is_anchor_and_positive_keeps_the_only_batch_from_filling_it_is_masked(prepared):
    rows = list(made_up(8))
    rows[1] = (rows[1][0], rows[0][0])
    out = prepared(rows, holdout_ratio=0, batch_size=8)
    assert (out.batching.mode, out.batching.steps) == ("masked", 1)
    assert out.audit["batches"]["false_negatives_in_a_batch"]["as_planned"] == 0, "as they are masked"
    assert out.audit["batches"]["why"] == "8 pairs have 8 distinct positives: kept apart they fill 0 of 1 batches of 8"


def test_and_it_is_refused_where_batches_must_be_planned(prepared):
    rows = list(made_up(8))
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


def test_where_77_positives_cannot_fill_a_batch_of_128_it_masks_and_says_so():
    rule, counts, why = rule_of(SEVENTY_SEVEN, batch_size=128)
    assert rule.masked
    assert counts == (78,)
    assert why == "10000 pairs have 77 distinct positives: kept apart they fill 0 of 78 batches of 128"


@pytest.mark.parametrize("batching", ["auto", "planned"])
def test_few_anchors_are_named_where_they_are_what_repeats(batching, caplog):
    groups = np.column_stack([SEVENTY_SEVEN, 10**6 + np.arange(10_000)])
    record = SourceRecord("s", "", 1, 10_000, 10_000, "", {}, ())
    try:
        told = choose_rule(Settings(batch_size=128, batching=batching), [record], groups)[2]
    except SettingsError as error:
        told = str(error)
    assert "10000 pairs have 77 distinct anchors" in told
    if batching == "auto":
        assert "so duplicates may meet in a batch, and do not count as negatives (MNRL_BATCHING=masked)" in caplog.text


def test_where_77_positives_fill_a_batch_of_64_they_are_kept_apart():
    rule, counts, _ = rule_of(SEVENTY_SEVEN, batch_size=64)
    assert not rule.masked
    assert counts == (156,)


def test_planned_batches_that_cannot_be_filled_are_refused_with_what_could_be():
    with pytest.raises(SettingsError, match=r"^MNRL_BATCH_SIZE=128: .*\b77 distinct positives.*\b77 or less"):
        rule_of(SEVENTY_SEVEN, batch_size=128, batching="planned")
    assert rule_of(SEVENTY_SEVEN, batch_size=77, batching="planned")[1] == (129,)


def test_where_no_batch_could_ever_be_filled_only_masking_is_offered():
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
def test_one_positive_for_all_teaches_nothing_unless_there_are_negatives(negatives):
    groups = np.column_stack([np.arange(50), np.full(50, 99)])
    given = Ragged(np.array(negatives, dtype=np.int64), np.array([0] * 50 + [len(negatives)]))
    if 7 in negatives:
        refuse_without_contrast(groups, given)
        return
    with pytest.raises(DataError, match=r"^MNRL_TRAIN_DATA: .*\b50 .*\bone positive\b"):
        refuse_without_contrast(groups, given)


def test_one_anchor_for_all_teaches_nothing_either(prepared):
    """All positives answer it, so none is a negative."""
    with pytest.raises(DataError, match=r"^MNRL_TRAIN_DATA: .*\b12 .*\bone anchor\b"):
        prepared([("Question", positive) for _, positive in made_up(12)], holdout_ratio=0, batch_size=4)
