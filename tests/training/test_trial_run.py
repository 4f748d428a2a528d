"""A few steps are tried on their own rows: the same batches, and nothing else is tokenised."""

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
    np.save(tmp_path / "barred.npy", rows % 7 == 0)
    pairs = Pairs(tmp_path / "pairs.arrow", ("anchor", "positive", "negatives"), ROWS, ROWS, {}, (), ())
    files = (tmp_path / name for name in ("labels.arrow", "plan.npy"))
    return pairs, BatchPlan(*files, "planned", ROWS // BATCH, (0, 100), tmp_path / "barred.npy")


def texts_of_batches(pairs, batching):
    rows = read_table(pairs.path).to_pylist()
    return [[rows[row] for row in batch] for batch in np.load(batching.plan)]


def test_the_batches_are_those_of_the_run(data, tmp_path):
    pairs, batching = first_steps(*data, 4, tmp_path / "few")
    assert texts_of_batches(pairs, batching) == texts_of_batches(*data)[:4]
    assert (pairs.rows, batching.steps, batching.epochs) == (4 * BATCH, 4, (0,))
    chosen = np.unique(np.load(data[1].plan)[:4])
    assert np.array_equal(read_groups(batching.labels), read_groups(data[1].labels)[chosen])
    assert np.array_equal(np.load(batching.barred), chosen % 7 == 0)
    found, whole = read_negatives(batching.labels), read_negatives(data[1].labels)
    assert [len(row["negatives"]) for row in read_table(pairs.path).to_pylist()] == found.counts.tolist()
    assert found.values.tolist() == whole.select(chosen).values.tolist()


def test_where_none_of_them_has_a_negative_there_is_no_column(data, tmp_path):
    pairs, batching = data
    np.save(batching.plan, np.array([[1, 2, 4], [5, 7, 8]]))
    few, their_batching = first_steps(pairs, batching, 4, tmp_path / "few")
    assert few.columns == ("anchor", "positive")
    assert not len(read_negatives(their_batching.labels).values)


def test_only_texts_of_the_steps_that_are_tried_are_tokenised(data, tmp_path, tiny_model, monkeypatch):
    """Beside a sample for the lengths; so a check takes no longer where there are more rows."""
    monkeypatch.setattr("mnrl_job.training.token_lengths.SAMPLED_ROWS", 50)
    settings = Settings(batch_size=BATCH, precision="fp32", learning_rate=1e-3)
    pairs, batching = data
    task = WorkerTask(settings, str(tiny_model), tmp_path, tmp_path, (), {}, pairs, batching)
    trial_run_role(task)
    tokenised = {path.stem: len(read_table(path)) for path in (tmp_path / "tokens").glob("*.arrow")}
    planned = np.load(batching.plan)[:TRIAL_STEPS]
    negatives = int(read_negatives(batching.labels).counts[planned].sum())
    assert tokenised == {"anchor": planned.size, "positive": planned.size, "negatives": negatives}
    seen = read_record(tmp_path / "trial_run.json", TrialRun)
    assert (seen.lengths.rows, set(seen.lengths.columns)) == (50, {"anchor", "positive", "negatives"})
    assert len([json.loads(line) for line in (tmp_path / "training_log.jsonl").open()]) == TRIAL_STEPS
