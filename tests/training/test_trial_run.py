"""A trial run uses the rows of its steps only: the same batches, and nothing else is tokenized."""

import json

import numpy as np
import pytest
from accelerate import PartialState

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged, offsets_of
from mnrl_job.data.tables import read_groups, read_negatives, read_table, write_columns, write_labels
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.record_files import read_record
from mnrl_job.training import token_columns
from mnrl_job.training.inputs import TrainingData
from mnrl_job.training.trial_run import first_steps
from mnrl_job.worker.results import TrialRun
from mnrl_job.worker.roles.trial_run import TRIAL_STEPS, trial_run_role

ROWS, BATCH = 2000, 8


@pytest.fixture
def data(tmp_path):
    """Every third row has a negative, every sixth two."""
    PartialState()
    rows = np.arange(ROWS)
    negatives = [[f"no {row}-{at}" for at in range((row % 3 == 0) + (row % 6 == 0))] for row in range(ROWS)]
    texts = {"anchor": [f"question {row}" for row in rows], "positive": [f"answer {row}" for row in rows]}
    write_columns(tmp_path / "pairs.arrow", **texts, negatives=negatives)
    offsets = offsets_of(np.array([len(some) for some in negatives]))
    given = Ragged(10_000 + np.arange(offsets[-1]), offsets)
    write_labels(tmp_path / "labels.arrow", np.stack([rows, ROWS + rows], axis=1), given)
    np.save(tmp_path / "plan.npy", np.random.default_rng(1).permutation(ROWS).reshape(-1, BATCH))
    np.save(tmp_path / "non_minable.npy", rows % 7 == 0)
    pairs = Pairs(tmp_path / "pairs.arrow", ("anchor", "positive", "negatives"), ROWS, ROWS, {}, (), ())
    files = (tmp_path / name for name in ("labels.arrow", "plan.npy"))
    batch_plan = BatchPlan(*files, ROWS // BATCH, (0, 100), tmp_path / "non_minable.npy")
    return TrainingData(pairs, batch_plan)


def texts_of_batches(data):
    rows = read_table(data.pairs.path).to_pylist()
    return [[rows[row] for row in batch] for batch in np.load(data.batch_plan.plan)]


def test_a_trial_run_has_the_first_batches_of_the_run(data, tmp_path):
    subset = first_steps(data, 4, tmp_path / "trial-run")
    pairs, batch_plan = subset.pairs, subset.batch_plan
    assert texts_of_batches(subset) == texts_of_batches(data)[:4]
    assert (pairs.rows, batch_plan.steps, batch_plan.epochs) == (4 * BATCH, 4, (0,))
    rows = np.unique(np.load(data.batch_plan.plan)[:4])
    assert np.array_equal(read_groups(batch_plan.labels), read_groups(data.batch_plan.labels)[rows])
    assert np.array_equal(np.load(batch_plan.non_minable), rows % 7 == 0)
    negatives, all_negatives = read_negatives(batch_plan.labels), read_negatives(data.batch_plan.labels)
    assert [len(row["negatives"]) for row in read_table(pairs.path).to_pylist()] == negatives.counts.tolist()
    assert negatives.values.tolist() == all_negatives.select(rows).values.tolist()


def test_a_trial_run_without_negatives_has_no_negatives_column(data, tmp_path):
    np.save(data.batch_plan.plan, np.array([[1, 2, 4], [5, 7, 8]]))
    subset = first_steps(data, 4, tmp_path / "trial-run")
    assert subset.pairs.columns == ("anchor", "positive")
    assert not len(read_negatives(subset.batch_plan.labels).values)


def test_a_trial_run_tokenizes_only_the_texts_of_its_steps(data, tmp_path, tiny_model, monkeypatch):
    """Besides a sample for the lengths, so a check takes no longer on larger data."""
    monkeypatch.setattr("mnrl_job.training.token_lengths.SAMPLED_ROWS", 50)
    settings = Settings(batch_size=BATCH, precision="fp32", learning_rate=1e-3)
    pairs, batch_plan = data.pairs, data.batch_plan
    tokenized, token_ids = [], token_columns.token_ids
    monkeypatch.setattr(token_columns, "token_ids", lambda how, texts: tokenized.extend(texts) or token_ids(how, texts))
    task = WorkerTask(settings, str(tiny_model), tmp_path, tmp_path, (), {}, pairs, batch_plan)
    trial_run_role(task)
    planned = read_table(pairs.path).take(np.load(batch_plan.plan)[:TRIAL_STEPS].ravel()).to_pydict()
    negatives = [text for texts in planned["negatives"] for text in texts]
    assert set(tokenized) == {*planned["anchor"], *planned["positive"], *negatives}
    result = read_record(tmp_path / "trial_run.json", TrialRun)
    assert (result.lengths.rows, set(result.lengths.columns)) == (50, {"anchor", "positive", "negatives"})
    assert len([json.loads(line) for line in (tmp_path / "training_log.jsonl").open()]) == TRIAL_STEPS
