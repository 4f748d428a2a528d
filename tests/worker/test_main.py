"""Exceptions of libraries in a worker, its model, and inputs that differ between ranks."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch

from mnrl_job.config.settings import Settings
from mnrl_job.embedding.assumptions import find_assumptions
from mnrl_job.embedding.loading import Loaded
from mnrl_job.errors import InternalError, OutOfMemory
from mnrl_job.evaluation.results import Evaluation
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.record_files import write_record
from mnrl_job.worker.main import explain
from mnrl_job.worker.model import describe_model
from mnrl_job.worker.scoring import warn_if_perfect
from tests import forked
from tests.program import clean_environment


def test_out_of_device_memory_has_its_own_code_and_a_remedy(tmp_path):
    error = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"), tmp_path)
    assert isinstance(error, OutOfMemory)
    assert error.code == 79
    assert re.search(r"\b2\.00 GiB.*MNRL_BATCH_SIZE", str(error))


def test_a_data_loader_process_that_dies_is_an_error_in_one_line(tmp_path):
    loader = torch.utils.data.DataLoader([1], num_workers=1, collate_fn=lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError) as raised:
        list(loader)
    error = explain(raised.value, tmp_path)
    assert isinstance(error, InternalError)
    assert re.fullmatch(r".*tokenizes.*pid.*", str(error))


def test_an_exception_in_a_data_loader_process_keeps_its_traceback(tmp_path):
    def fail(_):
        raise RuntimeError("some reason")

    with pytest.raises(RuntimeError) as raised:
        list(torch.utils.data.DataLoader([1], num_workers=1, collate_fn=fail))
    assert explain(raised.value, tmp_path) is None


def test_an_unknown_exception_is_an_internal_error(tmp_path):
    assert explain(KeyError("x"), tmp_path) is None


def test_a_folder_with_an_at_sign_in_its_path_has_no_revision(tmp_path, static_model):
    folder = tmp_path / "work@home"
    folder.mkdir()
    loaded = Loaded(static_model, find_assumptions(static_model))
    assert describe_model(loaded, str(folder)).revision is None


@pytest.mark.parametrize(
    ("primary_metric", "warns"), [("ndcg@10", True), ("other.ndcg@10", False), ("faq.mrr@10", False)]
)
def test_a_perfect_primary_metric_before_training_is_a_warning(primary_metric, warns, caplog):
    perfect, other = ({"ndcg@10": ndcg, "mrr@10": 0.9} for ndcg in (1.0, 0.8))
    evaluations = tuple(Evaluation(*scores, Path(), 0.0) for scores in (("faq", perfect), ("other", other)))
    warn_if_perfect(Settings(primary_metric=primary_metric).primary_eval, evaluations)
    assert ("faq.ndcg@10 is 1 before training: this eval set cannot show a gain" in caplog.text) == warns


def test_ranks_with_different_inputs_exit_before_training(tmp_path):
    shared = {"MNRL_JOB_STORE": str(tmp_path / "store"), "ACCELERATE_USE_CPU": "1"}
    shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2")
    workers = []
    log = tmp_path / "log"
    for rank in (0, 1):
        inputs = {"train/pairs": "same", "eval/faq": f"hash {rank}"}
        task = tmp_path / f"task-{rank}.json"
        write_record(task, WorkerTask(Settings(), "./no-model", tmp_path, tmp_path, (), inputs))
        identity = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "MNRL_JOB_ERROR_FILE": str(tmp_path / f"rank-{rank}.json"),
            "MNRL_JOB_HEARTBEAT": str(tmp_path / f"heartbeat-{rank}"),
        }
        environment = clean_environment(**shared, **identity)
        start = forked.Start(["train", str(task)], tmp_path, environment, log, log, module="mnrl_job.worker.__main__")
        workers.append(forked.start(start))
    assert [worker.wait(120) for worker in workers] == [65, 65], log.read_text()
    message = json.loads((tmp_path / "rank-1.json").read_text(encoding="utf-8"))["message"]
    assert message.startswith("eval/faq: rank 1 reads something else than rank 0 (SHA-256 hash 1 and hash 0)")
