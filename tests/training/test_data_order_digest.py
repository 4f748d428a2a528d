"""Which rows a run has trained on, proven by a digest: also when it was interrupted, on any number of ranks."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.batching.planning import PlanConfig, SourceShare, plan_epochs
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import write_columns, write_labels
from mnrl_job.errors import OutOfMemory
from mnrl_job.launch.error_files import root_cause
from mnrl_job.system.record_files import write_record
from mnrl_job.training.data_order_digest import data_order_digest
from tests.examples import PAIRS
from tests.training.rank_processes import started
from tests.training.rank_training import train

PLAN = np.arange(48).reshape(-1, 4)
EPOCHS = 3


@given(cut=st.integers(0, len(PLAN)))
def test_digests_chain_at_any_step(cut):
    assert data_order_digest(PLAN[cut:], data_order_digest(PLAN[:cut])) == data_order_digest(PLAN)


def test_a_digest_changes_with_rows_order_and_steps():
    swapped = PLAN[:, [1, 0, 2, 3]]
    assert len({data_order_digest(plan) for plan in (PLAN, swapped, PLAN[::-1], PLAN[:-1], PLAN + 1)}) == 5
    assert data_order_digest(PLAN) == data_order_digest(PLAN.astype(np.int32)), "whatever the type of the numbers"


@pytest.fixture
def run(tmp_path, tiny_model):
    return make_run(tmp_path, tiny_model, 8)


def make_run(tmp_path, tiny_model, batch_size):
    """Forty rows over eight positives, batches of 7 or 8: five steps an epoch, three epochs."""
    texts = [(f"{PAIRS[i % 8][0]} {'abcde'[i // 8]}", f"{PAIRS[i % 8][1]}") for i in range(40)]
    groups = np.stack([np.arange(40), 100 + np.arange(40) % 8], axis=1)
    write_columns(tmp_path / "pairs.arrow", anchor=[a for a, _ in texts], positive=[p for _, p in texts])
    write_labels(tmp_path / "labels.arrow", groups)
    plan = np.concatenate(list(plan_epochs(groups, PlanConfig(batch_size, (SourceShare(40),), 42, EPOCHS))))
    np.save(tmp_path / "plan.npy", plan)
    shutil.copytree(tiny_model, tmp_path / "model")
    write_record(tmp_path / "pairs.json", Pairs(tmp_path / "pairs.arrow", ("anchor", "positive"), 40, 40, {}, (), ()))
    batch_plan = BatchPlan(tmp_path / "labels.arrow", tmp_path / "plan.npy", len(plan))
    write_record(tmp_path / "batching.json", batch_plan)
    settings = Settings(batch_size=batch_size, epochs=EPOCHS).model_dump_json()
    (tmp_path / "settings.json").write_text(settings, encoding="utf-8")
    return tmp_path, plan


def logged(folder, name):
    return [json.loads(line)[name] for line in (folder / "training_log.jsonl").open()]


def test_a_run_resumed_in_its_second_epoch_trains_on_the_rows_it_had_not_seen(two_ranks, run):
    """The library's no-duplicates sampler repeats the first epoch's order here: 19 of 40 rows twice, 19 never."""
    folder, plan = run
    assert len(plan) == 15
    assert two_ranks.ask("train", folder, 7) == {
        "step": 7,
        "digest": data_order_digest(plan[:7]),
        "activation_recompute": False,
    }
    assert train(folder, 0) == {"step": 15, "digest": data_order_digest(plan), "activation_recompute": False}
    assert logged(folder, "rows_digest") == [data_order_digest(plan[:step]) for step in range(1, 16)]


def test_a_batch_of_seven_is_trained_on_by_one_rank_then_three_then_two(two_ranks, three_ranks, tmp_path, tiny_model):
    folder, plan = make_run(tmp_path, tiny_model, 7)
    whole = {"step": 15, "digest": data_order_digest(plan), "activation_recompute": False}
    assert train(folder, 0) == whole
    losses = logged(folder, "loss")
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    assert train(folder, 4)["step"] == 4
    assert three_ranks.ask("train", folder, 9) == {
        "step": 9,
        "digest": data_order_digest(plan[:9]),
        "activation_recompute": False,
    }
    assert two_ranks.ask("train", folder, 0) == whole
    assert logged(folder, "rows_digest") == [data_order_digest(plan[:step]) for step in range(1, 16)]
    assert logged(folder, "loss") == pytest.approx(losses, abs=1e-3)  # bf16, cut in other chunks


def test_two_ranks_with_different_numbers_of_chunks_finish_and_share_no_buffers(two_ranks, run):
    folder, plan = run
    found = two_ranks.ask("unequal", folder)
    one, other = found["ranks"]
    assert one["chunks"] != other["chunks"]
    assert one["buffers"] == other["buffers"] == 0
    assert one["messages"] == other["messages"] == 2, "between hosts, one in each step"
    assert (found["step"], found["digest"]) == (2, data_order_digest(plan[:2]))


def test_both_ranks_stop_after_the_step_in_which_one_is_asked_to(two_ranks, run):
    folder, plan = run
    found = two_ranks.ask("stopped", folder)
    assert found["steps"] == [1, 1]
    assert found["digest"] == data_order_digest(plan[:1])
    assert (folder / "trainer" / "checkpoint-1" / "manifest.json").exists()


def test_if_one_of_two_ranks_runs_out_of_memory_both_continue_with_less(two_ranks, run):
    """Here with what one process began, and to the same losses as that one alone."""
    folder, plan = run
    whole = {"step": 15, "digest": data_order_digest(plan), "activation_recompute": False}
    assert train(folder, 0) == whole
    losses = logged(folder, "loss")
    shutil.rmtree(folder / "trainer")
    assert train(folder, 7)["step"] == 7
    assert two_ranks.ask("short", folder, "forward") == whole | {"activation_recompute": True}
    assert logged(folder, "rows_digest") == [data_order_digest(plan[:step]) for step in range(1, 16)]
    assert logged(folder, "loss") == pytest.approx(losses, abs=1e-3)  # bf16, cut in other chunks


@pytest.mark.parametrize("moment", ["loss", "backward"])
def test_out_of_memory_on_one_of_two_ranks_after_the_forward_pass_ends_the_run_with_a_remedy(run, tmp_path, moment):
    """The other waits for it there, and cannot be told."""
    folder, _ = run
    ended = tmp_path / "ended"
    ended.mkdir()
    with started(ended) as ranks:
        ranks.tell("end", folder, moment)
        assert ranks.processes[1].wait(120) == OutOfMemory.code == 79
        ranks.processes[0].kill()
        ranks.processes[0].wait()
        found = root_cause(ended, [process.returncode for process in ranks.processes])
    assert isinstance(found, OutOfMemory)
    assert "CUBLAS_STATUS_ALLOC_FAILED" in str(found)
    assert "MNRL_GRADIENT_CHECKPOINTING=true" in str(found)
