"""What a worker makes of a library's exceptions, and of inputs that differ between ranks."""

import json
import re
from pathlib import Path

import pytest
import torch

from mnrl_job.config.settings import Settings
from mnrl_job.embedding.assumed import find_assumptions
from mnrl_job.embedding.loading import Loaded
from mnrl_job.errors import OutOfMemory
from mnrl_job.evaluation.results import Evaluation
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.record_files import read_record, write_record
from mnrl_job.worker.main import explain
from mnrl_job.worker.results import WorkerResult
from mnrl_job.worker.roles import write_result
from mnrl_job.worker.scoring import tell_if_perfect
from tests import forked
from tests.program import clean_environment


def test_running_out_of_device_memory_has_its_own_code_and_a_remedy(tmp_path):
    error = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"), tmp_path)
    assert isinstance(error, OutOfMemory)
    assert error.code == 79
    assert re.search(r"\b2\.00 GiB.*MNRL_BATCH_SIZE", str(error))


def test_a_fault_of_ours_stays_one(tmp_path):
    assert explain(KeyError("x"), tmp_path) is None


def test_a_folder_with_an_at_sign_in_its_path_has_no_revision(tmp_path, static_model):
    folder = tmp_path / "work@home"
    folder.mkdir()
    task = WorkerTask(Settings().model_dump(mode="json"), str(folder), tmp_path, tmp_path, (), {})
    write_result(task, Loaded(static_model, find_assumptions(static_model)), ())
    assert read_record(tmp_path / "result.json", WorkerResult).model.revision is None


@pytest.mark.parametrize(("primary", "told"), [("ndcg@10", True), ("other.ndcg@10", False), ("faq.mrr@10", False)])
def test_a_model_that_cannot_become_better_by_what_it_is_judged_by_is_told_before_it_trains(primary, told, caplog):
    perfect, other = ({"ndcg@10": ndcg, "mrr@10": 0.9} for ndcg in (1.0, 0.8))
    scored = tuple(Evaluation(name, each, Path(), 0.0) for name, each in (("faq", perfect), ("other", other)))
    tell_if_perfect(Settings(primary_metric=primary), scored)
    assert ("faq.ndcg@10 is 1 before training: this eval set cannot show a gain" in caplog.text) == told


def test_ranks_that_read_different_inputs_end_before_they_train(tmp_path):
    shared = {"MNRL_JOB_STORE": str(tmp_path / "store"), "ACCELERATE_USE_CPU": "1"}
    shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2")
    settings = Settings().model_dump(mode="json")
    workers = []
    log = tmp_path / "log"
    for rank in (0, 1):
        inputs = {"train/pairs": "same", "eval/faq": f"hash {rank}"}
        task = tmp_path / f"task-{rank}.json"
        write_record(task, WorkerTask(settings, "./no-model", tmp_path, tmp_path, (), inputs))
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MNRL_JOB_OUTCOME": str(tmp_path / f"rank-{rank}.json")}
        environment = clean_environment(**shared, **own)
        given = forked.Start(["train", str(task)], tmp_path, environment, log, log, module="mnrl_job.worker.__main__")
        workers.append(forked.start(given))
    assert [worker.wait(120) for worker in workers] == [65, 65], log.read_text()
    told = json.loads((tmp_path / "rank-1.json").read_text(encoding="utf-8"))["message"]
    assert told.startswith("eval/faq: rank 1 reads something else than rank 0 (SHA-256 hash 1 and hash 0)")
