"""Trackers are told of the training; whatever is wrong with one costs a warning, never the run or its result."""

import logging
import os
import socket
import sys
import time

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import write_columns, write_labels
from mnrl_job.tracking.tracked import tracked_run
from mnrl_job.training.callbacks import tracking
from mnrl_job.training.callbacks.tracking import TrackerCallback
from mnrl_job.training.train import train
from tests.examples import PAIRS
from tests.servers.mlflow import mlflow_server
from tests.servers.s3 import free_port
from tests.tracking.tensorboard_files import scalars

STEPS = 4
SETTINGS = Settings(run_id="r", batch_size=8, precision="fp32", learning_rate=1e-3)


@pytest.fixture(autouse=True)
def environment():
    """Trackers set defaults in the environment of the process that they work in."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def go(tmp_path, tiny_model, caplog):
    """Train a few steps. Returns the weights, the seconds it took, and what was warned of."""
    texts = [(f"{PAIRS[i % 8][0]} {'abcd'[i // 8]}", PAIRS[i % 8][1]) for i in range(32)]
    write_columns(tmp_path / "pairs.arrow", anchor=[a for a, _ in texts], positive=[p for _, p in texts])
    write_labels(tmp_path / "labels.arrow", np.stack([np.arange(32), 100 + np.arange(32) % 8], axis=1))
    np.save(tmp_path / "plan.npy", np.arange(32).reshape(STEPS, 8))
    pairs = Pairs(tmp_path / "pairs.arrow", ("anchor", "positive"), 32, 32, {}, (), ())
    batching = BatchPlan(tmp_path / "labels.arrow", tmp_path / "plan.npy", "planned", STEPS)

    def start(*trackers):
        caplog.clear()
        model = SentenceTransformer(str(tiny_model), device="cpu")
        began = time.monotonic()
        with caplog.at_level(logging.WARNING, "mnrl_job"):
            train(model, SETTINGS.model_copy(update={"report_to": trackers}), pairs, batching, tmp_path, tmp_path)
        took = time.monotonic() - began
        weights = torch.cat([weight.detach().ravel() for weight in model.parameters()])
        return weights, took, [record.getMessage() for record in caplog.records if record.name == "mnrl_job"]

    return start


def test_tensorboard_has_each_step_and_the_model_is_the_same(go, tmp_path):
    untracked, _, _ = go()
    weights, _, warnings = go("tensorboard")
    assert not warnings
    assert torch.equal(weights, untracked)
    found = scalars(tmp_path / "tensorboard")
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4]
    assert found["train/learning_rate"]


def test_a_missing_package_is_told_of_once_and_the_training_goes_on(go, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "mnrl_job.tracking.mlflow_run", raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as Python itself marks what cannot be imported
    _, took, warnings = go("mlflow")
    assert took < tracking.SECONDS_AT_THE_END
    assert len(warnings) == 1
    assert "pip install mlflow-skinny" in warnings[0]
    assert tracked_run(SETTINGS, tmp_path, tmp_path).left_out_mark("mlflow").exists()


def test_a_folder_that_cannot_be_written_is_told_of_once_and_the_training_goes_on(go, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/dev/null/here")
    _, _, warnings = go("tensorboard")
    assert len(warnings) == 1
    assert "MNRL_REPORT_TO: tensorboard is left out from now on: NotADirectoryError" in warnings[0]


def test_a_server_that_refuses_is_told_of_once_and_costs_little(go, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    _, took, warnings = go("mlflow")
    assert took < 60
    assert len(warnings) == 1
    assert "set MLFLOW_TRACKING_URI to a server that answers" in warnings[0]


def test_a_server_that_never_answers_is_waited_for_only_at_the_end(go, monkeypatch):
    monkeypatch.setattr(tracking, "SECONDS_AT_THE_END", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        _, took, warnings = go("mlflow")
    assert took < 60
    assert warnings == [
        "MNRL_REPORT_TO: mlflow is left out from now on: it is too slow, or does not answer; set MLFLOW_TRACKING_URI "
        "to a server that answers. The run goes on"
    ]


def test_a_server_that_goes_away_in_the_middle_is_left_out_from_then_on(tmp_path, monkeypatch, caplog):
    from transformers import TrainerControl, TrainerState, TrainingArguments

    args, state, control = TrainingArguments(str(tmp_path), report_to=[]), TrainerState(), TrainerControl()
    run = tracked_run(SETTINGS, tmp_path, tmp_path)
    callback = TrackerCallback("mlflow", run)
    with mlflow_server(tmp_path) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        callback.begin()
        callback.on_train_begin(args, state, control)
        callback.on_log(args, state, control, logs={"loss": 2.0})
        assert callback.wait(60)
        assert not run.left_out_mark("mlflow").exists()
    with caplog.at_level(logging.WARNING, "mnrl_job"):
        for step in range(3):
            state.global_step = step
            callback.on_log(args, state, control, logs={"loss": 1.0})
        assert not callback.wait(60)
    warnings = [record.getMessage() for record in caplog.records if record.name == "mnrl_job"]
    assert len(warnings) == 1
    assert warnings[0].startswith("MNRL_REPORT_TO: mlflow is left out from now on")
    assert run.left_out_mark("mlflow").exists()
