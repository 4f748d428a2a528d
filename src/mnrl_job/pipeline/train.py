"""The story of a training run: one call a step, in order."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mnrl_job.config.settings import Settings
from mnrl_job.data.read_pairs import read_pairs
from mnrl_job.launch.exporters import check_exporters
from mnrl_job.launch.fingerprint import fingerprint
from mnrl_job.launch.node_agent import NEWEST, NodeAgent, joined
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import start_workers
from mnrl_job.pipeline.export import exported
from mnrl_job.pipeline.finalize import RunOutcome, RunResults, lexical, report
from mnrl_job.pipeline.inputs import check_eval_names, get_inputs, read_eval_sets
from mnrl_job.pipeline.open_attempt import opened
from mnrl_job.pipeline.prepare import prepare
from mnrl_job.pipeline.published import finished_before
from mnrl_job.pipeline.tasks import agent_task, worker_task
from mnrl_job.report.audit_page import with_lengths
from mnrl_job.report.json_file import write_json
from mnrl_job.runs.attempt import Attempt, result_settings, resume_identity
from mnrl_job.runs.checkpoints import fetch_named, fetch_newest, upload_checkpoints
from mnrl_job.runs.status import Clock
from mnrl_job.storage.probe import probe
from mnrl_job.system.devices import Devices, find_devices
from mnrl_job.system.logs import log
from mnrl_job.worker.results import Verification, WorkerResult


def train(settings: Settings) -> RunOutcome:
    """Fetch, check, prepare, evaluate before, train, evaluate after, verify by reloading, export, report, publish.

    Raises:
        JobError: anything that kept the run from being published; `failure.json` tells the same.
    """
    with opened(settings) as place:
        if finished_before(settings, place, place.store()):
            return RunOutcome(place.run, None)
        devices = find_devices(settings.num_processes, settings.min_gpus)
        if place.nodes.is_single:
            return train_on_node(settings, place, devices)
        secret = settings.group_secret.get_secret_value()
        with joined(agent_task(settings, place, devices), devices, place.care, secret) as agent:
            return train_on_node(settings, place, devices, agent)


def train_on_node(settings: Settings, place: Attempt, devices: Devices, agent: NodeAgent | None = None) -> RunOutcome:
    """The part of this node: all prepare and train alike, then the first goes on alone."""
    nodes = place.nodes
    if nodes.is_first:
        probe(place.store())
        check_exporters(settings.export)
    place.diary.write(place.store())
    clock = Clock(place.status)
    one = replace(devices, workers=int(nodes.is_first))
    with (
        upload_checkpoints(place) as upload,
        agent.stopped_first() if agent else start_workers("train", place.scratch, devices, place.care) as workers,
        start_workers("verify", place.scratch, one, place.care) as verifier,
    ):
        with clock("fetch"):
            inputs = get_inputs(settings, place, devices)
        with clock("prepare"):
            eval_sets = read_eval_sets(inputs, place.scratch, settings.max_bad_row_ratio)
            read = read_pairs(inputs.train, settings, place.scratch / "pairs.arrow")
            log(
                f"read {read.rows} pairs from {len(inputs.train)} source(s)",
                rejected=read.rejected,
                filtered=read.filtered,
            )
            prepared = prepare(settings, place, read, eval_sets, nodes.max_nodes * devices.workers)
            check_eval_names(settings, prepared.eval_sets)
        task = worker_task(settings, place, inputs, prepared.eval_sets, prepared.pairs, prepared.batching)
        resume = partial(from_checkpoint, settings, place, upload)
        words = lexical(settings, task.eval_sets if nodes.is_first else ())
        if isinstance(workers, NodeAgent):
            own = fingerprint(result_settings(settings), task.inputs, devices.workers)
            result = workers.train(task, own, resume, WorkerResult)
        else:
            result = workers.run(resume(task), "result.json", WorkerResult)
        if agent and not nodes.is_first:
            with clock("publish"):
                agent.wait_until_published()
            return RunOutcome(place.run, None, by_peer=True)
        with clock("verify"):
            verification = verifier.run(task, "verified.json", Verification)
        exports = exported(settings, place, clock, task)
    write_json(place.staging / "audit.json", with_lengths(prepared.audit, result.lengths))
    return report(
        settings, place, clock, RunResults(task, result, words(), inputs.listing, read, verification, exports)
    )


def from_checkpoint(
    settings: Settings, place: Attempt, upload: Callable[[], None], task: WorkerTask, name: str | None = NEWEST
) -> WorkerTask:
    """The task, to be resumed from a checkpoint at the run's place.

    Args:
        settings: of the run.
        place: this attempt.
        upload: has what was made in this attempt uploaded.
        task: of the workers.
        name: of the checkpoint; by default the newest, if there is one. None begins at the beginning.

    Raises:
        SettingsError: it was made with other settings.
        DataError: it was made from other data.
        HangTimeout: the one named is not there.
    """
    folder = place.scratch / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)  # of the round before
    if name is None:
        return task
    if name != NEWEST:
        return replace(task, resume=fetch_named(place.store(), name, folder))
    upload()
    found = fetch_newest(place.store(), folder, resume_identity(settings, task.inputs))
    if found is None:
        return task
    if not place.status.step:  # else this attempt itself made it
        place.diary.write(place.store(), first_step=found.step, last_step=found.step)
    return replace(task, resume=found.folder)
