"""The `evaluate` command, step by step."""

from mnrl_job.config.settings import Settings
from mnrl_job.launch.workers import start_workers
from mnrl_job.pipeline.finalize import RunOutcome, RunResults, finalize, start_bm25
from mnrl_job.pipeline.inputs import (
    check_eval_names,
    get_inputs,
    read_eval_sets,
    with_general_guard,
)
from mnrl_job.pipeline.open_attempt import open_attempt, refuse_several_nodes
from mnrl_job.pipeline.published import finish_if_published
from mnrl_job.pipeline.tasks import worker_task
from mnrl_job.runs.status import PhaseTimer
from mnrl_job.storage.probe import probe
from mnrl_job.system.devices import find_devices
from mnrl_job.system.phases import Phase
from mnrl_job.worker.results import WorkerResult


def evaluate(settings: Settings) -> RunOutcome:
    """Score one model on the eval sets: the same metrics and files as `train`, without training.

    Raises:
        JobError: the scores could not be published.
    """
    refuse_several_nodes(settings, "evaluate")
    with open_attempt(settings) as attempt:
        store = attempt.store()
        if finish_if_published(settings, attempt, store):
            return RunOutcome(attempt.run_uri, None)
        probe(store)
        attempt.history.update(store)
        timer = PhaseTimer(attempt.status)
        devices = find_devices(settings.num_processes, settings.min_gpus)
        with start_workers("evaluate", attempt.scratch, devices, attempt.timeouts) as workers:
            with timer(Phase.FETCH):
                inputs = get_inputs(settings, attempt, devices, trains=False)
            with timer(Phase.PREPARE):
                eval_sets = read_eval_sets(inputs.evals, attempt.scratch, settings.max_bad_row_ratio)
                check_eval_names(settings, eval_sets)
                eval_sets = with_general_guard(eval_sets, settings.general_guard, attempt.scratch)
            task = worker_task(settings, attempt, inputs, eval_sets)
            bm25 = start_bm25(eval_sets, settings.metric_cutoffs)
            result = workers.run(task, "result.json", WorkerResult)
        return finalize(settings, attempt, timer, RunResults(task, result, bm25(), inputs.listing))
