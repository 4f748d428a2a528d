"""Stopped after any step and gone on with, a training ends with the very weights of one that was left alone."""

import hashlib
from functools import partial
from shutil import copyfile

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.setting_types import Interval
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import write_columns, write_labels
from mnrl_job.errors import Preempted
from mnrl_job.storage.manifest import read_valid_manifest
from mnrl_job.system import preemption
from mnrl_job.training.callbacks import checkpoints
from mnrl_job.training.callbacks.best_model import SCORES, WEIGHTS
from mnrl_job.training.callbacks.checkpoints import CheckpointSpec
from mnrl_job.training.distributed import StepVotes
from mnrl_job.training.hard_negatives.mining_rounds import NEGATIVES_FILE, ROUNDS_FILE
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.train import train
from tests.examples import PAIRS
from tests.scenes import copy_with_dropout

# Two epochs of four steps.
PLAN = np.concatenate([np.arange(32), np.random.default_rng(1).permutation(32)]).reshape(8, 8)
SETTINGS = Settings(batch_size=8, precision="fp32", learning_rate=1e-3, checkpoint_interval=Interval(seconds=600.0))


@pytest.fixture(scope="module")
def dropping(tmp_path_factory, tiny_model):
    """A model with dropout, so that the random numbers count."""
    folder = tmp_path_factory.mktemp("model") / "model"
    copy_with_dropout(tiny_model, folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    texts = [(f"{PAIRS[i % 8][0]} {'abcd'[i // 8]}", PAIRS[i % 8][1]) for i in range(32)]
    write_columns(folder / "pairs.arrow", anchor=[a for a, _ in texts], positive=[p for _, p in texts])
    write_labels(folder / "labels.arrow", np.stack([np.arange(32), 100 + np.arange(32) % 8], axis=1))
    np.save(folder / "plan.npy", PLAN)
    pairs = Pairs(folder / "pairs.arrow", ("anchor", "positive"), 32, 32, {}, (), ())
    batch_plan = BatchPlan(folder / "labels.arrow", folder / "plan.npy", len(PLAN), (0, 4))
    return TrainingData(pairs, batch_plan)


@pytest.fixture
def go(data, dropping, tmp_path):
    """Train, from a checkpoint if one is given. Returns what came of it and the hash of the weights."""
    return partial(trained, data, dropping, tmp_path)


def trained(data, dropping, tmp_path, resume=None, settings=SETTINGS, score=None):
    torch.manual_seed(settings.seed)
    model = SentenceTransformer(str(dropping), device="cpu")
    extra_files = tuple(
        tmp_path / name for name in ("training_log.jsonl", ROUNDS_FILE, NEGATIVES_FILE, SCORES, WEIGHTS)
    )
    for path in extra_files:
        path.unlink(missing_ok=True)
        if resume and (resume / path.name).exists():
            copyfile(resume / path.name, path)
    spec = CheckpointSpec({"settings": {}, "inputs": {}}, extra_files, resume)
    done = train(model, settings, data, AttemptFolders(tmp_path, tmp_path), spec, score)
    digest = hashlib.sha256(b"".join(weight.detach().numpy().tobytes() for weight in model.parameters())).hexdigest()
    mined = [(one["step"], one["found"], one["similarity"]) for one in done.hard_negative_mining]
    lines = extra_files[0].read_text().count("\n")
    return (done.steps, done.rows_digest, done.final_loss, done.tokens, digest), lines, mined


MINING = SETTINGS.model_copy(
    update={"num_hard_negatives": 2, "hard_negative_relative_margin": 0.0, "mining_interval": "epoch"}
)


@pytest.fixture(scope="module", params=[SETTINGS, MINING], ids=["plain", "mining"])
def undisturbed(request, data, dropping, tmp_path_factory):
    """Settings, and what comes of them where nobody stops the training."""
    return request.param, trained(data, dropping, tmp_path_factory.mktemp("undisturbed"), settings=request.param)


# The first, one after which negatives are mined for the next epoch, its last, and the very last; then the others.
@pytest.mark.parametrize("step", [1, 3, 4, 8, *(pytest.param(step, marks=pytest.mark.slow) for step in (2, 5, 6, 7))])
def test_a_run_stopped_after_any_step_and_resumed_ends_with_the_same_weights(
    go, tmp_path, monkeypatch, undisturbed, step
):
    settings, expected = undisturbed
    with monkeypatch.context() as patch:
        patch.setattr(StepVotes, "passed", stop_at(step))
        if step < len(PLAN):
            with pytest.raises(Preempted, match=rf"\bstep {step} of 8\b"):
                go(settings=settings)
        else:
            go(settings=settings)
    checkpoint = tmp_path / "trainer" / f"checkpoint-{step}"
    assert read_valid_manifest(checkpoint)["step"] == step
    assert go(resume=checkpoint, settings=settings) == expected


@pytest.mark.parametrize(
    ("step", "settings"), [pytest.param(4, SETTINGS, marks=pytest.mark.slow), (4, MINING), (6, SETTINGS)]
)
def test_a_run_stopped_when_patience_is_exhausted_trains_no_further(go, tmp_path, monkeypatch, step, settings):
    settings = settings.model_copy(
        update={"eval_interval": Interval(steps=2), "early_stopping_patience": step // 2 - 1}
    )
    undisturbed = go(settings=settings, score=lambda: 0.5)
    assert undisturbed[0][0] == step
    with monkeypatch.context() as patch:
        patch.setattr(StepVotes, "passed", stop_at(step))
        with pytest.raises(Preempted, match=rf"\bstep {step} of 8\b"):
            go(settings=settings, score=lambda: 0.5)
    checkpoint = tmp_path / "trainer" / f"checkpoint-{step}"
    assert go(resume=checkpoint, settings=settings, score=lambda: 0.5) == undisturbed


def test_negatives_are_mined_for_each_epoch_with_the_current_weights(go):
    """Batches are made ready one ahead, so the last step of an epoch is not in these weights yet."""
    *once, mined_once = go(settings=MINING.model_copy(update={"mining_interval": "run"}))
    *anew, mined_anew = go(settings=MINING)
    assert [step for step, _, _ in mined_once] == [0]
    assert [step for step, _, _ in mined_anew] == [0, 3]
    assert mined_anew[0] == mined_once[0] != mined_anew[1]
    assert once != anew != go()[:2]


def stop_at(step):
    """As if a stop were asked for in this step."""
    steps, granted = iter(range(1, 1000)), StepVotes.passed
    return lambda self, name: next(steps) == step if name == "stop" else granted(self, name)


def test_the_last_step_is_saved_after_enough_work(go, tmp_path, monkeypatch):
    go()
    assert not (tmp_path / "trainer" / "checkpoint-8").exists()
    monkeypatch.setattr(checkpoints, "WORTH_SAVING_SECONDS", 0.0)
    go(settings=SETTINGS.model_copy(update={"checkpoint_interval": Interval(steps=1000)}))
    assert read_valid_manifest(tmp_path / "trainer" / "checkpoint-8") is not None


@pytest.mark.parametrize("every", [Interval(steps=1000), Interval(seconds=600.0)], ids=["steps", "time"])
def test_the_first_checkpoint_is_saved_early_whatever_the_interval(go, tmp_path, monkeypatch, every):
    monkeypatch.setattr(checkpoints, "WORTH_SAVING_SECONDS", 0.0)
    go(settings=SETTINGS.model_copy(update={"checkpoint_interval": every}))
    kept = sorted(path.name for path in (tmp_path / "trainer").glob("checkpoint-*"))
    assert kept == ["checkpoint-1", "checkpoint-8"], "the second is the last step's"


def test_a_recorded_sigterm_is_a_stop_request(monkeypatch):
    monkeypatch.setattr(preemption, "_request", preemption._Request())
    assert not preemption.stop_requested()
    preemption._request.record(15)
    preemption._request.record(15)
    assert preemption.stop_requested()
    with pytest.raises(Preempted, match="SIGTERM"):
        preemption.raise_if_stop_requested()
