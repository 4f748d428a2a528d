"""Preparation: leaks, holdout, negatives and labels."""

import json
import re

import numpy as np
import pytest

from mnrl_job.config.setting_types import Hardness
from mnrl_job.data.tables import NO_GROUP, read_groups, read_negatives, read_table, texts_of
from mnrl_job.errors import DataError, SettingsError
from tests.examples import LEAKED, PAIRS, write_pairs
from tests.pipeline.generated_pairs import generate_pairs


def test_leaked_pairs_are_removed_and_counted(published):
    assert "1 of 10 training pairs also occur in an eval set (1 in faq); they are removed" in published.said
    audit = json.loads((published.run / "audit.json").read_text(encoding="utf-8"))
    assert (audit["rows_usable"], audit["rows_removed_as_leaked"], audit["rows_to_train_on"]) == (10, 1, 9)
    assert audit["leakage"]["by_eval_set"] == {"faq": 1}
    assert audit["batches"]["rows_used_an_epoch"] == 8
    metrics = json.loads((published.run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["data"]["train"]["rows_used"] in (8, 9), "the row left out changes with the epoch"


def test_leaked_pairs_fail_the_run_if_the_policy_is_fail(mnrl_job, tmp_path, good):
    write_pairs(tmp_path / "pairs.jsonl", [*PAIRS, LEAKED])
    ended = mnrl_job("train", **good | {"MNRL_LEAKAGE_POLICY": "fail"})
    assert ended.code == 65
    assert re.search(r"\b1 of 9 training pairs .*\(1 in faq\).*'get an", ended.last_line)
    assert "MNRL_LEAKAGE_POLICY=remove" in ended.last_line


def test_a_run_fails_if_every_pair_is_leaked(mnrl_job, tmp_path, good):
    write_pairs(tmp_path / "pairs.jsonl", [LEAKED] * 8)
    ended = mnrl_job("train", **good)
    assert ended.code == 65
    assert "MNRL_LEAKAGE_POLICY=keep" in ended.last_line


def test_rows_of_each_source_are_recounted_without_leaked_ones(prepared):
    one, two = list(generate_pairs(20, "a")), list(generate_pairs(12, "b"))
    result = prepared(one, two, evals={"x": one[3], "y": two[0], "z": ("q", "d")}, batch_size=4)
    assert [source.rows for source in result.pairs.sources] == [19, 11]
    assert [one["rows"] for one in result.audit["sources"]] == [20, 12], "as they were read"
    assert result.audit["leakage"]["by_eval_set"] == {"x": 1, "y": 1, "z": 0}
    assert result.audit["batches"]["batches_an_epoch"] == {"s0": 4, "s1": 2}
    trained = read_table(result.pairs.path).to_pylist()
    assert [(row["anchor"], row["positive"]) for row in trained] == [*one[:3], *one[4:], *two[1:]]
    plan = np.load(result.batch_plan.plan)
    assert sorted((batch < 19).sum() for batch in plan) == [0] * 2 + [4] * 4, "a batch is of one source"


@pytest.mark.parametrize("policy", ["keep", "remove", "fail"])
def test_leaked_pairs_are_kept_removed_or_fail_the_run(prepared, caplog, policy):
    rows = list(generate_pairs(20))
    settings = {"evals": {"x": rows[3]}, "leakage_policy": policy, "batch_size": 4}
    if policy == "fail":
        with pytest.raises(DataError, match=r"\b1 of 20 training pairs .*\(1 in x\).*MNRL_LEAKAGE_POLICY=remove"):
            prepared(rows, **settings)
        return
    result = prepared(rows, **settings)
    consequences = {"keep": "its metrics will be too high", "remove": "they are removed"}
    assert f"1 of 20 training pairs also occur in an eval set (1 in x); {consequences[policy]}" in caplog.text
    assert result.audit["leakage"]["policy"] == policy
    assert result.audit["leakage"]["rows"] == 1
    assert (result.audit["rows_removed_as_leaked"], result.pairs.rows) == ((0, 20) if policy == "keep" else (1, 19))


def test_a_near_duplicate_of_an_eval_pair_is_removed_but_not_a_pair_that_shares_one_text(prepared):
    rows = list(generate_pairs(20))
    question, answer = f"{rows[0][0]} {'please tell me soon ' * 6}", rows[0][1]
    rows[1] = (f"{question}?", f"{answer} indeed")
    rows[2], rows[3] = (question, rows[2][1]), (rows[3][0], answer)
    result = prepared(rows, evals={"x": (question, answer)}, batch_size=4)
    assert result.audit["rows_removed_as_leaked"] == 1
    assert rows[1][0] not in read_table(result.pairs.path)["anchor"].to_pylist()


def test_near_duplicates_of_held_out_texts_are_not_trained_on(prepared):
    result = prepared(list(generate_pairs(200, copies=2)), holdout_ratio=0.2, batch_size=4)
    assert result.audit["rows_held_out"] == 40
    assert result.audit["rows_to_train_on"] == result.pairs.rows == 160
    (eval_set,) = result.eval_sets
    assert (eval_set.name, eval_set.queries, eval_set.documents) == ("holdout", 40, 100)
    queries = read_table(eval_set.folder / "queries.arrow")["text"].to_pylist()
    trained = read_table(result.pairs.path)
    assert not set(queries) & set(trained["anchor"].to_pylist())
    number = {anchor: int(anchor.split()[-1]) // 2 for anchor in [*queries, *trained["anchor"].to_pylist()]}
    assert not {number[one] for one in queries} & {number[one] for one in trained["anchor"].to_pylist()}


def test_near_duplicates_of_held_out_texts_are_no_negatives(prepared):
    """Each row's negative is a near-duplicate of another row's positive."""
    pairs = list(generate_pairs(200, copies=2))
    rows = [(*pair, f"{pairs[(i + 2) % 200][1]}0") for i, pair in enumerate(pairs)]
    result = prepared(rows, holdout_ratio=0.2, batch_size=4)
    trained = read_table(result.pairs.path)
    positives, negatives = (
        [text.split("word")[0] for text in texts_of(trained, name).to_pylist()] for name in result.pairs.columns[1:]
    )
    near = np.array([number not in positives for number in negatives])
    assert near.sum() == result.audit["negatives_held_out"] > 20
    assert np.array_equal(read_negatives(result.batch_plan.labels).values == NO_GROUP, near)


def test_without_eval_data_and_holdout_there_is_a_warning(prepared, caplog):
    result = prepared(list(generate_pairs(20)), holdout_ratio=0, batch_size=4)
    assert result.eval_sets == ()
    assert result.audit["rows_to_train_on"] == 20
    assert "this run cannot say whether the model became better" in caplog.text


def test_labels_hold_the_group_of_each_text_and_mark_contradicting_negatives(prepared):
    rows = [(*pair, f"no {pair[1]}") for pair in generate_pairs(8)]
    rows[1] = (rows[1][0], rows[1][1], rows[2][1])  # answers another row
    rows[4] = (rows[3][0], "another answer", rows[3][1])  # a positive of its anchor
    result = prepared(rows, holdout_ratio=0, batch_size=2)
    groups, negatives = read_groups(result.batch_plan.labels), read_negatives(result.batch_plan.labels)
    assert groups.shape == (8, 2)
    assert negatives.counts.tolist() == [1] * 8
    assert negatives.values[1] == groups[2, 1]
    assert groups[3, 0] == groups[4, 0]
    assert np.flatnonzero(negatives.values == NO_GROUP).tolist() == [4]
    assert result.audit["contradictions"]["negatives"] == 1


def test_hard_negatives_can_be_weighted_only_if_there_are_some(prepared):
    options = {"batch_size": 4, "hardness": Hardness("hard_negatives", 5)}
    with pytest.raises(SettingsError, match=r"^MNRL_HARDNESS=hard_negatives:5: .*MNRL_NUM_HARD_NEGATIVES"):
        prepared(list(generate_pairs(8)), **options)


def test_rows_without_negatives_can_be_combined_with_rows_with_many(prepared):
    rows = list(generate_pairs(20))
    rows[7] = (*rows[7], *(f"not {i}" for i in range(400)))
    result = prepared(rows, evals={"x": rows[3]}, batch_size=4)
    assert result.pairs.columns == ("anchor", "positive", "negatives")
    assert read_negatives(result.batch_plan.labels).counts.tolist() == [0] * 6 + [400] + [0] * 12
    assert [len(texts) for texts in read_table(result.pairs.path)["negatives"].to_pylist()] == [0] * 6 + [400] + [
        0
    ] * 12


@pytest.mark.parametrize("options", [{"evals": {"x": ("question 3", "answer 3")}}, {"holdout_ratio": 0.5}])
def test_the_column_of_negatives_is_dropped_with_the_only_row_that_has_any(prepared, options):
    """That row is leaked, or held out with the nine others that share its answer."""
    rows = [("question 3", "answer 3", "not this", "nor that")] + [(f"q{i}", "answer 3") for i in range(9)]
    chain = [(f"b{i // 2}", f"answer of b{(i + 1) // 2}") for i in range(11)]
    rows += chain if "holdout_ratio" in options else list(generate_pairs(11, "b"))
    result = prepared(rows, batch_size=2, **options)
    assert result.pairs.columns == ("anchor", "positive")
    assert not len(read_negatives(result.batch_plan.labels).values)
    assert read_table(result.pairs.path).column_names == ["anchor", "positive"]
    with pytest.raises(SettingsError, match=r"^MNRL_HARDNESS=hard_negatives:5: "):
        prepared(rows, batch_size=2, hardness=Hardness("hard_negatives", 5), **options)


def test_negatives_to_be_mined_can_be_weighted(prepared):
    options = {"batch_size": 4, "hardness": Hardness("hard_negatives", 5), "holdout_ratio": 0}
    assert prepared(list(generate_pairs(8)), **options, num_hard_negatives=1).batch_plan.steps == 2


def test_documents_relevant_in_an_eval_set_are_not_mined_as_negatives(prepared):
    rows = list(generate_pairs(20))
    queries = (f"about {rows[3][0]}", f"{rows[3][1]}!")
    result = prepared(rows, evals={"x": queries}, num_hard_negatives=1, batch_size=4)
    assert np.flatnonzero(np.load(result.batch_plan.non_minable)).tolist() == [3]
