"""A loss that went wrong ends the run and names the rows; a healthy one, however bumpy, does not."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.data.tables import write_table
from mnrl_job.errors import Diverged
from mnrl_job.training.callbacks.divergence import WINDOW, DivergenceMonitor


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.arrow"
    write_table(path, pa.table({"anchor": [f"question {row}" for row in range(400)]}))
    return path


def batches(losses):
    return [np.arange(4) + 4 * (step % 100) for step in range(len(losses))]


def judge(pairs, losses, candidates=64, terms=1):
    DivergenceMonitor(pairs, candidates, 2e-5, terms).update(len(losses), batches(losses), losses)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_the_first_step_with_a_nonfinite_loss_is_named_with_its_rows(pairs, loss):
    with pytest.raises(Diverged, match=rf"\b{loss} at step 3; .*\b4 rows .*'question 8', 'question 9'") as caught:
        judge(pairs, [0.5, 0.4, loss, loss])
    assert caught.value.details == {"step": 3, "rows": [f"question {row}" for row in range(8, 12)]}


def test_rows_are_named_in_columns_over_2_gib(huge, pairs, monkeypatch):
    monkeypatch.setattr("mnrl_job.training.callbacks.divergence.read_table", lambda _: huge)
    with pytest.raises(Diverged, match=r"'0399x+', '0000x+'"):
        DivergenceMonitor(pairs, 64, 2e-5).update(1, [np.array([huge.num_rows - 1, 0])], [math.nan])


def test_step_numbers_continue_after_a_checkpoint(pairs):
    with pytest.raises(Diverged, match=r"\bstep 102\b"):
        DivergenceMonitor(pairs, 64, 2e-5).update(102, batches([1, 2]), [0.5, math.nan])


def test_a_loss_at_the_level_of_random_scores_has_diverged(pairs):
    with pytest.raises(Diverged, match=r"\b0\.50 to 4\.\d+ at step"):
        judge(pairs, [0.5] * WINDOW + [math.log(64)] * WINDOW)


def test_a_sum_of_losses_is_compared_with_that_many_random_losses(pairs):
    risen = [0.5] * WINDOW + [math.log(64)] * WINDOW
    judge(pairs, risen, terms=3)
    with pytest.raises(Diverged, match=r"\b0\.50 to 11\.\d+ at step"):
        judge(pairs, [*risen, *[3 * math.log(64)] * WINDOW], terms=3)


def test_a_loss_that_starts_at_random_has_not_diverged(pairs):
    judge(pairs, [math.log(64) + 1] * 3 * WINDOW)


@given(st.lists(st.floats(0, 2.0), max_size=4 * WINDOW), st.floats(0, 45))
def test_losses_below_random_and_single_bad_batches_do_not_end_a_run(pairs, losses, bad):
    judge(pairs, [*losses, bad, *losses])
