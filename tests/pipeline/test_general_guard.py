"""The general guard in whole runs: scored before and after beside the user's eval sets."""

import json

from tests.examples import read_metrics

ON = {"MNRL_GENERAL_GUARD": "on"}


def test_a_run_scores_general_search_before_and_after_and_reports_both(mnrl_job, good, tmp_path):
    ended = mnrl_job("train", **good, **ON)
    assert ended.code == 0, ended.stderr
    run = tmp_path / "out" / "r"
    metrics = read_metrics(run)
    assert list(metrics["evaluation"]) == ["faq", "general-search"]
    assert metrics["primary_metric"]["name"] == "faq.ndcg@10"
    assert metrics["data"]["eval"]["general-search"]["queries"] == 200
    assert metrics["evaluation"]["general-search"]["bm25"]
    assert metrics["gate"]["rule"].count("general-search") == 0
    before, after = (metrics["evaluation"]["general-search"][when]["ndcg@10"] for when in ("before", "after"))
    summary = f"general search: {before:.2f} → {after:.2f}"
    assert summary in ended.last_line
    assert summary in (run / "report.html").read_text(encoding="utf-8")
    assert summary in (run / "model" / "README.md").read_text(encoding="utf-8")
    assert len((run / "rankings" / "general-search.jsonl").read_text().splitlines()) == 200
    audit = json.loads((run / "audit.json").read_text())
    assert list(audit["eval"]) == ["faq"]


def test_evaluate_scores_general_search_unless_it_is_off(mnrl_job, good, tmp_path):
    ended = mnrl_job("evaluate", **good, **ON)
    assert ended.code == 0, ended.stderr
    assert list(read_metrics(tmp_path / "out" / "r")["evaluation"]) == ["faq", "general-search"]
    assert "; general search: 0." in ended.last_line
    ended = mnrl_job("evaluate", **good | {"MNRL_RUN_ID": "off", "MNRL_GENERAL_GUARD": "off"})
    assert ended.code == 0, ended.stderr
    assert list(read_metrics(tmp_path / "out" / "off")["evaluation"]) == ["faq"]
    assert "general search" not in ended.stderr


def test_check_names_general_search(mnrl_job, good):
    ended = mnrl_job("check", **good, **ON)
    assert ended.code == 0, ended.stdout + ended.stderr
    assert "200 queries over 2000 documents" in ended.stdout


def test_without_an_eval_set_there_is_no_general_search(mnrl_job, good, tmp_path):
    ended = mnrl_job("train", **good | ON | {"MNRL_EVAL_DATA": "", "MNRL_HOLDOUT_RATIO": "0"})
    assert ended.code == 0, ended.stderr
    metrics = read_metrics(tmp_path / "out" / "r")
    assert (metrics["evaluation"], metrics["primary_metric"]) == ({}, None)


def test_an_eval_set_of_the_same_name_is_refused_unless_the_guard_is_off(mnrl_job, good):
    named = {"MNRL_EVAL_DATA": "general-search=faq.json"}
    ended = mnrl_job("evaluate", **good | ON | named | {"MNRL_BASE_MODEL": "./missing"})
    assert ended.code == 64, ended.stderr
    assert "'general-search' is the name of the bundled set" in ended.last_line
    assert mnrl_job("evaluate", **good | named).code == 0


def test_general_search_is_never_the_primary_eval_set(mnrl_job, good):
    ended = mnrl_job("evaluate", **good, **ON, MNRL_PRIMARY_METRIC="general-search.ndcg@10")
    assert ended.code == 64, ended.stderr


def test_a_limit_on_its_loss_requires_the_guard(mnrl_job, good):
    ended = mnrl_job("train", **good, MNRL_MAX_GUARD_LOSS="0.05")
    assert ended.code == 64, ended.stderr
    assert "MNRL_GENERAL_GUARD=on" in ended.stderr
