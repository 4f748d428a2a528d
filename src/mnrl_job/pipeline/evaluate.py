"""The story of an evaluation."""

import os

from mnrl_job.config.settings import Settings
from mnrl_job.errors import SettingsError
from mnrl_job.launch.nodes import find_nodes
from mnrl_job.launch.workers import start_workers
from mnrl_job.pipeline.finalize import RunOutcome, RunResults, lexical, report
from mnrl_job.pipeline.inputs import check_eval_names, get_inputs, read_eval_sets
from mnrl_job.pipeline.open_attempt import opened
from mnrl_job.pipeline.published import finished_before
from mnrl_job.pipeline.tasks import worker_task
from mnrl_job.runs.status import Clock
from mnrl_job.storage.probe import probe
from mnrl_job.system.devices import find_devices
from mnrl_job.worker.results import WorkerResult


def evaluate(settings: Settings) -> RunOutcome:
    """Score one model on the eval sets: the same metrics and files as `train`, without training.

    Raises:
        JobError: anything that kept the scores from being published.
    """
    nodes = find_nodes(settings, os.environ)
    if not nodes.is_single:
        raise SettingsError(
            f"MNRL_NUM_NODES: there are {nodes.max_nodes} nodes, but evaluate works on one; start it on one"
        )
    with opened(settings) as place:
        store = place.store()
        if finished_before(settings, place, store):
            return RunOutcome(place.run, None)
        probe(store)
        place.diary.write(store)
        clock = Clock(place.status)
        devices = find_devices(settings.num_processes, settings.min_gpus)
        with start_workers("evaluate", place.scratch, devices, place.care) as workers:
            with clock("fetch"):
                inputs = get_inputs(settings, place, devices, trains=False)
            with clock("prepare"):
                eval_sets = read_eval_sets(inputs, place.scratch, settings.max_bad_row_ratio)
                check_eval_names(settings, eval_sets)
            task = worker_task(settings, place, inputs, eval_sets)
            words = lexical(settings, eval_sets)
            result = workers.run(task, "result.json", WorkerResult)
        return report(settings, place, clock, RunResults(task, result, words(), inputs.listing))
