"""The log has every step it is to have, exactly, though the device is seldom waited for."""

import json
from dataclasses import replace

import pytest
import torch

from mnrl_job.config.setting_types import Interval
from mnrl_job.errors import Diverged
from mnrl_job.training.callbacks import progress
from mnrl_job.training.callbacks.checkpoints import CheckpointSpec
from mnrl_job.training.data_order_digest import data_order_digest
from mnrl_job.training.inputs import AttemptFolders
from mnrl_job.training.losses.mnrl import GlobalBatchLoss
from mnrl_job.training.train import train
from tests.training.four_steps import PLAN, SETTINGS

TIMED = ("seconds", "pairs_per_second", "memory_bytes")


@pytest.fixture
def readings(monkeypatch):
    """How often numbers were brought to the host; the library itself must not read any to log them."""
    taken = []

    def read(content, to_host=progress.to_host):
        taken.append(len(content["rows"]))
        return to_host(content)

    def fail(*_, **__):
        raise AssertionError("the library reads the loss")

    monkeypatch.setattr(progress, "to_host", read)
    monkeypatch.setattr("transformers.trainer.nested_gather", fail)
    return taken


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").open()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


def test_fast_steps_are_flushed_together_and_logged_individually(
    run, model, tiny_model, tmp_path, readings, monkeypatch
):
    from sentence_transformers import SentenceTransformer

    run(model)
    assert readings == [4]
    together = lines_of(tmp_path)
    assert [line["step"] for line in together] == [1, 2, 3, 4]
    assert [line["rows_digest"] for line in together] == [data_order_digest(PLAN[:step]) for step in range(1, 5)]
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_FLUSHES", 0.0)
    run(SentenceTransformer(str(tiny_model), device="cpu"))
    assert readings == [4, 1, 1, 1, 1]
    assert lines_of(tmp_path) == together


def test_a_log_entry_of_several_steps_has_their_mean_loss(run, model, tiny_model, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer

    _, each = run(SentenceTransformer(str(tiny_model), device="cpu"))
    monkeypatch.setattr("mnrl_job.training.training_args.log_interval", lambda _: 3)
    trained, means = run(model)
    logged = [(line["step"], line["rows_digest"]) for line in lines_of(tmp_path)]
    assert logged == [(1, data_order_digest(PLAN[:1])), (3, data_order_digest(PLAN[:3]))]
    assert means == pytest.approx([each[0], (each[1] + each[2]) / 2], abs=1e-6)
    assert trained.rows_digest == data_order_digest(PLAN)


@pytest.fixture
def breaking(monkeypatch):
    """The loss of the third step is no number."""
    seen = []

    def forward(self, *arguments, forward=GlobalBatchLoss.forward):
        seen.append(loss := forward(self, *arguments))
        if len(seen) == 3:
            losses = (*self.counts.losses[:-1], torch.full_like(loss.detach(), torch.nan))
            self.counts = replace(self.counts, losses=losses)
        return loss

    monkeypatch.setattr(GlobalBatchLoss, "forward", forward)


@pytest.mark.usefixtures("breaking")
def test_a_nan_loss_is_reported_with_its_step_even_if_later_steps_were_trained(run, model, tmp_path):
    with pytest.raises(Diverged, match="at step 3;") as caught:
        run(model)
    assert caught.value.details["step"] == 3
    assert len(caught.value.details["rows"]) == 8
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]


@pytest.mark.usefixtures("breaking")
def test_all_losses_are_checked_before_a_checkpoint(run, model, tmp_path, readings):
    settings = SETTINGS.model_copy(update={"checkpoint_interval": Interval(steps=3)})
    with pytest.raises(Diverged, match="at step 3;"):
        train(model, settings, run.data, AttemptFolders(tmp_path, tmp_path), CheckpointSpec({}, (), None))
    assert readings == [3]
    assert not list((tmp_path / "trainer").glob("checkpoint-*"))
