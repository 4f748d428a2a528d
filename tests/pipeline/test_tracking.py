"""Runs with trackers: failed by the gate, resumed, and without a reachable tracker."""

import json
import time
from pathlib import Path

import psutil
import pytest

from tests.scenes import make_scene
from tests.servers.mlflow import mlflow_server
from tests.servers.s3 import free_port
from tests.tracking.tensorboard_files import scalars, texts
from tests.tracking.wandb_file import config, history, summary

STEPS = 9
SETTINGS = {"MNRL_EPOCHS": "3", "MNRL_CHECKPOINT_INTERVAL": "6", "MNRL_EVAL_INTERVAL": "3", "MNRL_RUN_ID": "r"}


@pytest.fixture
def scene(tmp_path, tiny_model):
    """Of 25 pairs, one of which is kept to select weights on."""
    scene = make_scene(tmp_path, tiny_model)
    with (scene.folder / "pairs.jsonl").open("a") as pairs:
        pairs.write('{"anchor": "print the receipt", "positive": "receipts are on the orders page"}\n')
    return scene


@pytest.fixture
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


def wandb_processes() -> list[psutil.Process]:
    return [one for one in psutil.process_iter() if one.name().startswith("wandb-core")]


def test_a_run_that_failed_the_gate_is_reported_and_resumed_in_the_same_tracker_run(scene, server, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    before = {one.pid for one in wandb_processes()}
    tracked = SETTINGS | {
        "MNRL_REPORT_TO": "tensorboard,wandb,mlflow",
        "MLFLOW_TRACKING_URI": server,
        "MLFLOW_EXPERIMENT_NAME": "faq",
        "WANDB_MODE": "offline",
    }
    assert scene.run("r", **tracked, MNRL_MIN_GAIN="1") == 80, scene.log("r")
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("faq").experiment_id
    (refused,) = client.search_runs([experiment])
    assert (refused.info.run_name, refused.info.status) == ("r", "FAILED")
    assert refused.data.tags["mnrl_job.status"] == "gate"
    assert [one.path for one in client.list_artifacts(refused.info.run_id)] == ["report.html"]

    assert scene.run("r", **tracked) == 0, scene.log("r")
    assert "resuming from step 6" in scene.log("r")
    (run,) = client.search_runs([experiment])
    scores = scene.metrics("r")["evaluation"]["faq"]
    assert (run.info.run_id, run.info.status) == (refused.info.run_id, "FINISHED")
    assert run.data.tags["mnrl_job.status"] == "succeeded"
    assert run.data.params["MNRL_BATCH_SIZE"] == "8"
    assert {one.step for one in client.get_metric_history(run.info.run_id, "loss")} == set(range(1, STEPS + 1))
    assert {one.step for one in client.get_metric_history(run.info.run_id, "eval_ndcg_10")} == {3, 6, 9}
    for moment in ("before", "after", "delta", "bm25"):
        assert run.data.metrics[f"{moment}/faq/ndcg_10"] == pytest.approx(scores[moment]["ndcg@10"])
    place = scene.run_folder("r")
    page = client.download_artifacts(run.info.run_id, "report.html", str(scene.folder))
    assert (place / "report.html").read_bytes() == Path(page).read_bytes()

    found = scalars(place / "tensorboard")
    assert [step for step, _ in found["train/loss"]] == list(range(1, STEPS + 1)), "of both attempts, none twice"
    assert found["after/faq/ndcg@10"] == [(STEPS, pytest.approx(scores["after"]["ndcg@10"]))]
    assert "| status | succeeded |" in texts(place / "tensorboard")["results"]

    folders = sorted((place / "wandb").glob("offline-run-*-r"))
    logged = [step for folder in folders for step in history(folder / "run-r.wandb")]
    losses = [int(step["train/global_step"]) for step in logged if "train/loss" in step]
    assert losses[-3:] == [7, 8, 9]
    assert losses == list(range(1, STEPS + 1))
    assert config(folders[0] / "run-r.wandb")["MNRL_BATCH_SIZE"] == '"8"'
    last = summary(folders[-1] / "run-r.wandb")
    assert float(last["after/faq/ndcg@10"]) == pytest.approx(scores["after"]["ndcg@10"])
    assert (folders[-1] / "files" / "report.html").read_bytes() == (place / "report.html").read_bytes()
    manifest = json.loads((place / "manifest.json").read_text())["files"]
    assert f"wandb/{folders[-1].name}/run-r.wandb" in manifest

    assert scene.run("r", **tracked) == 0, "nothing more to do"
    assert sorted((place / "wandb").glob("offline-run-*-r")) == folders
    deadline = time.monotonic() + 10
    while left := [one for one in wandb_processes() if one.pid not in before]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_a_run_succeeds_without_its_trackers_and_stdout_has_only_the_table(mnrl_job, good, tmp_path):
    absent = tmp_path / "packages" / "wandb"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'wandb'\", name='wandb')")
    tracked = {
        "MNRL_REPORT_TO": "wandb,mlflow",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}",
        "WANDB_MODE": "offline",  # of which transformers prints a line
        "PYTHONPATH": str(absent.parent),
    }
    ended = mnrl_job("train", **good | tracked)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith("\nfaq\nmetric ")
    warnings = [line for line in ended.stderr.splitlines() if "MNRL_REPORT_TO" in line]
    assert len(warnings) == 2, ended.stderr
    assert any("No module named 'wandb'" in line for line in warnings)
    assert any("MLFLOW_TRACKING_URI" in line for line in warnings)
    assert (tmp_path / "out" / "r" / "_SUCCESS").exists()
