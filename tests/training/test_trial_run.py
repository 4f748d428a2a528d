"""A trial run trains on the first batches of the run, and takes no longer on larger data."""

import json

import numpy as np
import pytest
from accelerate import PartialState

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged, offsets_of
from mnrl_job.data.tables import read_table, write_columns, write_labels
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.record_files import read_record
from mnrl_job.training import token_columns
from mnrl_job.training.inputs import TrainingData
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


def test_a_trial_run_tokenizes_only_the_texts_of_its_steps(data, tmp_path, tiny_model, monkeypatch):
    """Besides samples of all texts."""
    monkeypatch.setattr("mnrl_job.training.token_lengths.SAMPLED_ROWS", 50)
    monkeypatch.setattr(token_columns, "SAMPLED_TEXTS", 5)
    settings = Settings(batch_size=BATCH, precision="fp32", learning_rate=1e-3)
    pairs, batch_plan = data.pairs, data.batch_plan
    tokenized, token_ids = [], token_columns.token_ids
    monkeypatch.setattr(token_columns, "token_ids", lambda how, texts: tokenized.extend(texts) or token_ids(how, texts))
    task = WorkerTask(settings, str(tiny_model), tmp_path, tmp_path, (), {}, pairs, batch_plan)
    trial_run_role(task)
    planned = read_table(pairs.path).take(np.load(batch_plan.plan)[:TRIAL_STEPS].ravel()).to_pydict()
    negatives = [text for texts in planned["negatives"] for text in texts]
    texts = {*planned["anchor"], *planned["positive"], *negatives}
    assert texts < set(tokenized)
    assert len(set(tokenized) - texts) <= 3 * 5
    result = read_record(tmp_path / "trial_run.json", TrialRun)
    assert (result.lengths.rows, set(result.lengths.columns)) == (50, {"anchor", "positive", "negatives"})
    assert len([json.loads(line) for line in (tmp_path / "training_log.jsonl").open()]) == TRIAL_STEPS
