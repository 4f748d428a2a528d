"""The training is reported to trackers; a failing tracker costs a warning, never the run or its result."""

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
from mnrl_job.tracking.run import tracked_run
from mnrl_job.training.callbacks import tracking
from mnrl_job.training.callbacks.tracking import TrackerCallback
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.train import train
from tests.examples import PAIRS
from tests.servers.mlflow import mlflow_server
from tests.servers.s3 import free_port
from tests.tracking.tensorboard_files import scalars

STEPS = 4
SETTINGS = Settings(run_id="r", batch_size=8, precision="fp32", learning_rate=1e-3)


@pytest.fixture(autouse=True)
def environment():
    """Restore the environment, in which trackers set defaults."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def run_training(tmp_path, tiny_model, caplog):
    """Train a few steps. Returns the weights, the seconds it took, and the warnings."""
    texts = [(f"{PAIRS[i % 8][0]} {'abcd'[i // 8]}", PAIRS[i % 8][1]) for i in range(32)]
    write_columns(tmp_path / "pairs.arrow", anchor=[a for a, _ in texts], positive=[p for _, p in texts])
    write_labels(tmp_path / "labels.arrow", np.stack([np.arange(32), 100 + np.arange(32) % 8], axis=1))
    np.save(tmp_path / "plan.npy", np.arange(32).reshape(STEPS, 8))
    pairs = Pairs(tmp_path / "pairs.arrow", ("anchor", "positive"), 32, 32, {}, (), ())
    batch_plan = BatchPlan(tmp_path / "labels.arrow", tmp_path / "plan.npy", STEPS)

    def start(*trackers):
        caplog.clear()
        model = SentenceTransformer(str(tiny_model), device="cpu")
        started = time.monotonic()
        with caplog.at_level(logging.WARNING, "mnrl_job"):
            settings = SETTINGS.model_copy(update={"report_to": trackers})
            train(model, settings, TrainingData(pairs, batch_plan), AttemptFolders(tmp_path, tmp_path))
        seconds = time.monotonic() - started
        weights = torch.cat([weight.detach().ravel() for weight in model.parameters()])
        return weights, seconds, warnings_of(caplog)

    return start


def warnings_of(caplog):
    """What the job itself warned of, whatever level a test before this one left the logger at."""
    return [r.getMessage() for r in caplog.records if r.name == "mnrl_job" and r.levelno >= logging.WARNING]


def test_tensorboard_has_each_step_and_the_weights_are_the_same(run_training, tmp_path):
    untracked, _, _ = run_training()
    weights, _, warnings = run_training("tensorboard")
    assert not warnings
    assert torch.equal(weights, untracked)
    logged = scalars(tmp_path / "tensorboard")
    assert [step for step, _ in logged["train/loss"]] == [1, 2, 3, 4]
    assert logged["train/learning_rate"]


def test_a_missing_package_is_one_warning_and_the_training_continues(run_training, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as Python itself marks what cannot be imported
    _, seconds, warnings = run_training("mlflow")
    assert seconds < tracking.TIMEOUT_SECONDS
    assert len(warnings) == 1
    assert "pip install mlflow-skinny" in warnings[0]
    assert tracked_run(SETTINGS, tmp_path, tmp_path).disabled_marker("mlflow").exists()


def test_an_unwritable_folder_is_one_warning_and_the_training_continues(run_training, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/dev/null/here")
    _, _, warnings = run_training("tensorboard")
    assert len(warnings) == 1
    assert "MNRL_REPORT_TO: tensorboard is disabled: NotADirectoryError" in warnings[0]


def test_a_server_that_refuses_connections_is_one_warning_and_costs_little(run_training, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    _, seconds, warnings = run_training("mlflow")
    assert seconds < 60
    assert len(warnings) == 1
    assert "set MLFLOW_TRACKING_URI to a server that responds" in warnings[0]


def test_a_server_that_never_responds_delays_only_the_end_of_the_training(run_training, monkeypatch):
    monkeypatch.setattr(tracking, "TIMEOUT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        _, seconds, warnings = run_training("mlflow")
    assert seconds < 60
    assert warnings == [
        "MNRL_REPORT_TO: mlflow is disabled: it is too slow or does not respond; set MLFLOW_TRACKING_URI "
        "to a server that responds. The run continues"
    ]


def test_a_server_that_fails_during_training_is_disabled(tmp_path, monkeypatch, caplog):
    from transformers import TrainerControl, TrainerState, TrainingArguments

    args, state, control = TrainingArguments(str(tmp_path), report_to=[]), TrainerState(), TrainerControl()
    run = tracked_run(SETTINGS, tmp_path, tmp_path)
    callback = TrackerCallback("mlflow", run)
    with mlflow_server(tmp_path) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        callback.start()
        callback.on_train_begin(args, state, control)
        callback.on_log(args, state, control, logs={"loss": 2.0})
        assert callback.wait(60)
        assert not run.disabled_marker("mlflow").exists()
    with caplog.at_level(logging.WARNING, "mnrl_job"):
        for step in range(3):
            state.global_step = step
            callback.on_log(args, state, control, logs={"loss": 1.0})
        assert not callback.wait(60)
    warnings = warnings_of(caplog)
    assert len(warnings) == 1
    assert warnings[0].startswith("MNRL_REPORT_TO: mlflow is disabled")
    assert run.disabled_marker("mlflow").exists()
