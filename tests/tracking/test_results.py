"""Results are reported to trackers; one that hangs or fails costs a warning."""

import logging
import os
import socket
import time

import psutil
import pytest

from mnrl_job.tracking import results as module
from mnrl_job.tracking.results import Results, log_to_files, log_to_servers
from tests.servers.s3 import free_port
from tests.tracking.tensorboard_files import scalars, texts
from tests.tracking.wandb_file import config, summary

SCORES = {"ndcg@10": 0.5, "mrr@10": 0.25}
METRICS = {
    "status": "gate",
    "training": {"steps": 40},
    "evaluation": {"faq": {"before": SCORES, "after": SCORES, "delta": SCORES, "bm25": None}},
    "gate": {"passed": False, "rule": "ndcg@10 rises by 0.1", "failed": ["it rose by 0"]},
}


@pytest.fixture
def results(run):
    page = run.staging / "report.html"
    page.write_text("<p>the page")
    return lambda *trackers: Results(run, trackers, METRICS, page, "text")


def test_tensorboard_has_scores_outcome_and_settings(results, run):
    log_to_files(results("tensorboard"))
    folder = run.staging / "tensorboard"
    assert scalars(folder)["before/faq/ndcg@10"] == [(40, 0.5)]
    assert scalars(folder)["after/faq/mrr@10"] == [(40, 0.25)]
    assert "| gate_failed | it rose by 0 |" in texts(folder)["results"]
    assert "| MNRL_BATCH_SIZE | 8 |" in texts(folder)["settings"]


def test_an_offline_wandb_folder_is_copied_with_the_report_and_without_logs(results, run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_to_files(results("wandb"))
    (folder,) = (run.staging / "wandb").iterdir()
    assert folder.name.endswith("-faq-7")
    assert {path.name for path in folder.iterdir()} == {"run-faq-7.wandb", "files"}
    assert (folder / "files" / "report.html").read_text() == "<p>the page"
    values = summary(folder / "run-faq-7.wandb")
    assert (values["after/faq/ndcg@10"], values["status"]) == ("0.5", '"gate"')
    assert config(folder / "run-faq-7.wandb")["MNRL_BATCH_SIZE"] == '"8"'


def test_a_configured_wandb_folder_is_used_and_not_copied(results, run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    log_to_files(results("wandb"))
    assert list((tmp_path / "mine" / "wandb").glob("offline-run-*-faq-7/run-faq-7.wandb"))
    assert not (run.staging / "wandb").exists()


def test_a_tracker_disabled_during_training_gets_no_results(results, run):
    run.disabled_marker("tensorboard").touch()
    log_to_files(results("tensorboard"))
    assert not (run.staging / "tensorboard").exists()


def test_a_wandb_folder_that_cannot_be_copied_is_a_warning(results, run, caplog):
    run.disabled_marker("wandb").touch()
    (run.wandb_folder / "offline-run-1-faq-7" / "files").mkdir(parents=True)
    (run.staging / "wandb").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        log_to_files(results("wandb"))
    assert "MNRL_REPORT_TO: wandb is disabled: " in caplog.text


def test_a_server_that_refuses_connections_is_a_warning_of_one_line(results, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    log_to_servers(results("mlflow"))
    (line,) = capfd.readouterr().err.splitlines()
    assert "warning: MNRL_REPORT_TO: mlflow is disabled" in line
    assert "set MLFLOW_TRACKING_URI to a server that responds" in line


def test_a_server_that_never_responds_times_out_and_leaves_no_process(results, monkeypatch, caplog):
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 8.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with caplog.at_level(logging.WARNING):
            log_to_servers(results("mlflow"))
    assert time.monotonic() - started < 60
    assert "mlflow is disabled: it did not accept the results within 8 s" in caplog.text
    children = psutil.Process(os.getpid()).children()
    assert not [child for child in children if "mnrl_job.tracking.results" in child.cmdline()]
