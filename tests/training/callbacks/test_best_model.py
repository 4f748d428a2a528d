"""The best weights: kept when they score best, given back at the end, and never silently other ones."""

from types import SimpleNamespace

import pytest
import torch

from mnrl_job.config.setting_types import Interval
from mnrl_job.errors import InternalError
from mnrl_job.training.callbacks.best_model import SCORES, WEIGHTS, BestModelCallback, EvalSchedule

LAST = 100


@pytest.fixture
def model():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    return model


def made(model, folder, values, patience=None, resume=None, every=10):
    """A `Best` that gets these scores, one after another."""
    left = iter(values)
    return BestModelCallback(model, EvalSchedule(Interval(steps=every), patience), lambda: next(left), folder, resume)


def train(model, best, first=1, last=LAST):
    """Each step makes the weights that step's number. Returns the step it ended at."""
    for step in range(first, last + 1):
        with torch.no_grad():
            model.weight.fill_(step)
        best.evaluate_if_due(step, LAST)
        if best.patience_exhausted:
            break
    return step


def test_the_model_ends_with_the_weights_that_scored_best(model, tmp_path):
    best = made(model, tmp_path, [0.1, 0.3, 0.5, 0.5, 0.2, 0.4, 0.1, 0.0, 0.3, 0.4])
    assert train(model, best) == LAST
    assert [one.step for one in best.scores] == list(range(10, LAST + 1, 10))
    assert (best.best.step, best.best.value) == (30, 0.5)
    best.restore()
    assert model.weight.unique().tolist() == [30]


def test_the_last_step_is_evaluated_whatever_the_interval(model, tmp_path):
    best = made(model, tmp_path, [0.1, 0.3], every=70)
    train(model, best)
    assert [one.step for one in best.scores] == [70, 100]


@pytest.mark.parametrize(("patience", "end"), [(1, 30), (2, 60), (3, 70), (None, 100)])
def test_training_stops_when_patience_is_exhausted(model, tmp_path, patience, end):
    best = made(model, tmp_path, [0.3, 0.4, 0.4, 0.5, 0.4, 0.1, 0.5, 0.3, 0.2, 0.1], patience)
    assert train(model, best) == end


def test_a_resumed_run_keeps_its_scores_and_repeats_a_missing_evaluation(model, tmp_path):
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    earlier.mkdir(), later.mkdir()
    train(model, made(model, earlier, [0.5, 0.1]), last=20)
    (later / WEIGHTS).write_bytes((earlier / WEIGHTS).read_bytes())
    best = made(model, later, [0.2, 0.3], patience=3, resume=earlier)
    control = SimpleNamespace(should_training_stop=False)
    best.on_train_begin(None, SimpleNamespace(global_step=30, max_steps=LAST), control)
    assert not control.should_training_stop
    assert train(model, best, first=31) == 40
    assert [one.value for one in best.scores] == [0.5, 0.1, 0.2, 0.3]
    best.restore()
    assert model.weight.unique().tolist() == [10]


@pytest.mark.parametrize("damage", ["gone", "cut", "of another model"])
def test_best_weights_that_cannot_be_loaded_are_an_error(model, tmp_path, damage):
    best = made(model, tmp_path, [0.5], every=LAST)
    train(model, best)
    path = tmp_path / WEIGHTS
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    else:
        train(torch.nn.Linear(4, 2), made(torch.nn.Linear(4, 2), tmp_path, [0.5], every=LAST))
    with pytest.raises(InternalError, match=r"\bbest weights.*\bstep 100\b"):
        best.restore()
    assert (tmp_path / SCORES).exists()
