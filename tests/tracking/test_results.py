"""Results reach the trackers when the model is trained; one that does not answer, or is absent, costs a warning."""

import logging
import os
import socket
import time

import psutil
import pytest

from mnrl_job.tracking import results as module
from mnrl_job.tracking.results import Results, into_files, to_servers
from tests.servers.s3 import free_port
from tests.tracking.tensorboard_files import scalars, texts
from tests.tracking.wandb_file import config, summary

SCORES = {"ndcg@10": 0.5, "mrr@10": 0.25}
CONTENT = {
    "status": "gate",
    "training": {"steps": 40},
    "evaluation": {"faq": {"before": SCORES, "after": SCORES, "delta": SCORES, "bm25": None}},
    "gate": {"passed": False, "rule": "ndcg@10 rises by 0.1", "failed": ["it rose by 0"]},
}


@pytest.fixture
def results(run):
    page = run.staging / "report.html"
    page.write_text("<p>the page")
    return lambda *trackers: Results(run, trackers, CONTENT, page, "text")


def test_tensorboard_s_files_get_the_scores_the_verdict_and_the_settings(results, run):
    into_files(results("tensorboard"))
    folder = run.staging / "tensorboard"
    assert scalars(folder)["before/faq/ndcg@10"] == [(40, 0.5)]
    assert scalars(folder)["after/faq/mrr@10"] == [(40, 0.25)]
    assert "| gate_failed | it rose by 0 |" in texts(folder)["results"]
    assert "| MNRL_BATCH_SIZE | 8 |" in texts(folder)["settings"]


def test_a_folder_of_w_and_b_is_published_with_the_page_and_nothing_but_the_run(results, run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    into_files(results("wandb"))
    (folder,) = (run.staging / "wandb").iterdir()
    assert folder.name.endswith("-faq-7")
    assert {path.name for path in folder.iterdir()} == {"run-faq-7.wandb", "files"}
    assert (folder / "files" / "report.html").read_text() == "<p>the page"
    found = summary(folder / "run-faq-7.wandb")
    assert (found["after/faq/ndcg@10"], found["status"]) == ("0.5", '"gate"')
    assert config(folder / "run-faq-7.wandb")["MNRL_BATCH_SIZE"] == '"8"'


def test_a_folder_that_the_user_named_for_w_and_b_is_used(results, run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    into_files(results("wandb"))
    assert list((tmp_path / "mine" / "wandb").glob("offline-run-*-faq-7/run-faq-7.wandb"))
    assert not (run.staging / "wandb").exists()


def test_a_tracker_that_was_left_out_is_not_asked_for_again(results, run):
    run.left_out_mark("tensorboard").touch()
    into_files(results("tensorboard"))
    assert not (run.staging / "tensorboard").exists()


def test_a_folder_that_cannot_be_copied_costs_a_warning(results, run, caplog):
    run.left_out_mark("wandb").touch()
    (run.wandb_folder / "offline-run-1-faq-7" / "files").mkdir(parents=True)
    (run.staging / "wandb").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        into_files(results("wandb"))
    assert "MNRL_REPORT_TO: wandb is left out from now on: " in caplog.text


def test_a_server_that_refuses_is_told_of_in_one_line(results, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    to_servers(results("mlflow"))
    (line,) = capfd.readouterr().err.splitlines()
    assert "warning: MNRL_REPORT_TO: mlflow is left out from now on" in line
    assert "set MLFLOW_TRACKING_URI to a server that answers" in line


def test_a_server_that_never_answers_is_given_up_and_leaves_no_process(results, monkeypatch, caplog):
    monkeypatch.setattr(module, "SECONDS", 8.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with caplog.at_level(logging.WARNING):
            to_servers(results("mlflow"))
    assert time.monotonic() - began < 60
    assert "mlflow is left out from now on: it did not take the results within 8 s" in caplog.text
    assert not [
        one for one in psutil.Process(os.getpid()).children() if "mnrl_job.tracking.log_results" in one.cmdline()
    ]
