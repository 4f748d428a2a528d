"""The gate of whole runs: a run that fails it is published without a success marker."""

import json
import re

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.pipeline.inputs import check_eval_names
from tests.examples import read_metrics, write_evalset


def test_a_run_below_the_gate_is_published_without_a_marker_and_passes_once_the_gate_is_lowered(
    mnrl_job, good, tmp_path
):
    checkpoints = {"MNRL_CHECKPOINT_INTERVAL": "1", "MNRL_EPOCHS": "3"}
    ended = mnrl_job("train", **good, **checkpoints, MNRL_MIN_GAIN="0.9")
    run = tmp_path / "out" / "r"
    assert ended.code == 80, ended.stderr
    assert re.search(r"faq\.ndcg@10 .*MNRL_MIN_GAIN is 0\.9.*\bout/r\b", ended.last_line)
    assert "won/lost/tied" in ended.stdout
    metrics = read_metrics(run)
    assert (metrics["status"], metrics["gate"]["passed"]) == ("gate", False)
    assert metrics["run"]["attempts"][-1]["outcome"] == "gate"
    failure = json.loads((run / "failure.json").read_text())
    assert (failure["exit_code"], failure["class"], failure["retry_helps"]) == (80, "gate", False)
    assert (run / "model" / "model.safetensors").exists()
    assert (run / "manifest.json").exists()
    assert not (run / "_SUCCESS").exists()
    assert mnrl_job("verify", str(run)).code != 0

    ended = mnrl_job("train", **good, **checkpoints, MNRL_MIN_GAIN="-1")
    assert ended.code == 0, ended.stderr
    assert "resuming from step 2 of 3" in ended.stderr
    assert read_metrics(run)["gate"] == {
        "passed": True,
        "rule": "faq.ndcg@10 rises by -1 or more",
        "failed": [],
    }
    assert (run / "_SUCCESS").exists()
    assert not (run / "failure.json").exists()
    assert not (run / "checkpoints").exists()


def test_a_run_with_collapsed_embeddings_fails_the_gate_also_when_it_is_resumed(mnrl_job, good, tmp_path):
    changes = {
        "MNRL_LEARNING_RATE": "1",
        "MNRL_EPOCHS": "16",
        "MNRL_CHECKPOINT_INTERVAL": "3",
        "MNRL_LEAKAGE_POLICY": "keep",
    }
    run = tmp_path / "out" / "r"
    for _ in range(2):  # the second resumes from a checkpoint, with the log up to it
        ended = mnrl_job("train", **good, **changes)
        assert ended.code == 80, ended.stderr
        assert "collapsed" in ended.last_line
        assert "succeeded" not in ended.last_line
        assert not (run / "_SUCCESS").exists()
        assert read_metrics(run)["training"]["collapse"]
    assert "resuming from step" in ended.stderr
    ended = mnrl_job("train", **good, **changes, MNRL_MIN_GAIN="-1")
    assert ended.code == 0, ended.stderr
    assert (run / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MNRL_GUARD_EVALS": "general"}, "MNRL_GUARD_EVALS=general: .* faq"),
        ({"MNRL_METRIC_CUTOFFS": "1,5"}, "MNRL_PRIMARY_METRIC='ndcg@10' .*MNRL_METRIC_CUTOFFS=1,5"),
        ({"MNRL_METRIC_CUTOFFS": "0,5"}, "MNRL_METRIC_CUTOFFS='0,5' .* 1 to 10000"),
        (
            {"MNRL_EVAL_DATA": "", "MNRL_HOLDOUT_RATIO": "0", "MNRL_MIN_GAIN": "0"},
            "MNRL_MIN_GAIN, .*MNRL_EVAL_DATA.*MNRL_HOLDOUT_RATIO",
        ),
        ({"MNRL_EARLY_STOPPING_PATIENCE": "2"}, "MNRL_EARLY_STOPPING_PATIENCE='2' .*MNRL_EVAL_INTERVAL"),
        ({"MNRL_ACCELERATE_CONFIG": "fsdp.yaml", "MNRL_EVAL_INTERVAL": "5"}, "MNRL_ACCELERATE_CONFIG='fsdp.yaml' "),
    ],
)
def test_settings_that_need_a_missing_eval_set_or_metric_are_refused(mnrl_job, good, settings, message):
    ended = mnrl_job("train", **good | settings)
    assert ended.code == 64, ended.stderr
    assert re.search(message, ended.stderr)


@pytest.mark.parametrize("gate", [{}, {"min_gain": -1}])
def test_without_an_eval_set_there_must_be_no_gate(gate):
    check_eval_names(Settings.model_validate(gate), ())


def test_metrics_are_computed_at_the_configured_cutoffs(mnrl_job, good, tmp_path):
    write_evalset(tmp_path / "general.json")
    changes = {
        "MNRL_METRIC_CUTOFFS": "2,20",
        "MNRL_PRIMARY_METRIC": "map@20",
        "MNRL_EVAL_DATA": "faq.json,general.json",
    }
    ended = mnrl_job("evaluate", **good | changes)
    assert ended.code == 0, ended.stderr
    metrics = read_metrics(tmp_path / "out" / "r")
    for name in ("faq", "general"):
        evaluation = metrics["evaluation"][name]
        assert {metric.partition("@")[2] for metric in evaluation["before"]} == {"2", "20"}
        assert evaluation["before"].keys() == evaluation["bm25"].keys()
    assert metrics["gate"]["rule"] == "none"
    assert "map@20" in ended.stdout
