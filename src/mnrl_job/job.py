"""The story of a run: one call a step, in order. This module knows every step; no step knows another."""

import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from mnrl_job.errors import DataError, Hang, InternalError, JobError, Preempted, SettingsError
from mnrl_job.groundwork import (
    ask_exports,
    check_eval_names,
    get_inputs,
    published_before,
    read_eval_sets,
    worker_task,
    write_json,
)
from mnrl_job.inputs.pairs import read_pairs
from mnrl_job.outputs.audit_page import with_lengths
from mnrl_job.outputs.checkpoints import fetch_named, fetch_newest, kept
from mnrl_job.outputs.publish import record_failure, tidy
from mnrl_job.outputs.recheck import recheck
from mnrl_job.prepare import prepare
from mnrl_job.records import Export, Verification, WorkerResult, WorkerTask
from mnrl_job.reporting import Finished, Work, lexical, report
from mnrl_job.runtime.attempt import Attempt, attempt, common, effective, work_dir
from mnrl_job.runtime.devices import Devices, find_devices
from mnrl_job.runtime.exporters import check_exporters
from mnrl_job.runtime.files import scratch_folder
from mnrl_job.runtime.fingerprint import fingerprint
from mnrl_job.runtime.home import provide_home
from mnrl_job.runtime.launch import ask_workers, started
from mnrl_job.runtime.logs import log
from mnrl_job.runtime.machine import told_if_full
from mnrl_job.runtime.node_agent import NEWEST, NodeAgent, joined
from mnrl_job.runtime.nodes import find_nodes
from mnrl_job.runtime.secrets import redact
from mnrl_job.runtime.status import Clock
from mnrl_job.runtime.stopping import stop_on_request, understood
from mnrl_job.runtime.storage import Store, open_store
from mnrl_job.runtime.storage.probe import probe
from mnrl_job.runtime.watch import EXPORT, Care
from mnrl_job.settings import Settings


def train(settings: Settings) -> Finished:
    """Fetch, check, prepare, evaluate before, train, evaluate after, verify by reloading, export, report, publish.

    Raises:
        JobError: anything that kept the run from being published; `failure.json` tells the same.
    """
    with opened(settings) as place:
        if finished_before(settings, place, place.store()):
            return Finished(place.run, None)
        devices = find_devices(settings.num_processes, settings.min_gpus)
        if place.nodes.is_single:
            return train_on_node(settings, place, devices)
        with joined(settings, place, devices) as agent:
            return train_on_node(settings, place, devices, agent)


def train_on_node(settings: Settings, place: Attempt, devices: Devices, agent: NodeAgent | None = None) -> Finished:
    """The part of this node: all prepare and train alike, then the first goes on alone."""
    nodes = place.nodes
    if nodes.is_first:
        probe(place.store())
        check_exporters(settings.export)
    place.diary.write(place.store())
    clock = Clock(place.status)
    one = replace(devices, workers=int(nodes.is_first))
    with (
        kept(place) as upload,
        agent.stopped_first() if agent else started("train", place.scratch, devices, place.care) as workers,
        started("verify", place.scratch, one, place.care) as verifier,
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
            own = fingerprint(effective(settings), task.inputs, devices.workers)
            result = workers.train(task, own, resume, WorkerResult)
        else:
            result = workers.ask(resume(task), "result.json", WorkerResult)
        if agent and not nodes.is_first:
            with clock("publish"):
                agent.wait_until_published()
            return Finished(place.run, None, by_peer=True)
        with clock("verify"):
            verification = verifier.ask(task, "verified.json", Verification)
        exports = exported(settings, place, clock, task)
    write_json(place.staging / "audit.json", with_lengths(prepared.audit, result.lengths))
    return report(settings, place, clock, Work(task, result, words(), inputs.listing, read, verification, exports))


def exported(settings: Settings, place: Attempt, clock: Clock, task: WorkerTask) -> tuple[Export, ...]:
    """The saved model in other formats, where any are asked for."""
    if not settings.export:
        return ()
    with clock(EXPORT):
        return ask_exports(task, place.care)


def evaluate(settings: Settings) -> Finished:
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
            return Finished(place.run, None)
        probe(store)
        place.diary.write(store)
        clock = Clock(place.status)
        devices = find_devices(settings.num_processes, settings.min_gpus)
        with started("evaluate", place.scratch, devices, place.care) as workers:
            with clock("fetch"):
                inputs = get_inputs(settings, place, devices, trains=False)
            with clock("prepare"):
                eval_sets = read_eval_sets(inputs, place.scratch, settings.max_bad_row_ratio)
                check_eval_names(settings, eval_sets)
            task = worker_task(settings, place, inputs, eval_sets)
            words = lexical(settings, eval_sets)
            result = workers.ask(task, "result.json", WorkerResult)
        return report(settings, place, clock, Work(task, result, words(), inputs.listing))


def verify_run(uri: str, settings: Settings) -> Verification | None:
    """Check a published run again: marker, manifest, every hash, and that the model reloads to the same embeddings.

    Returns:
        How the reloaded model compares; None for a run of `evaluate`, which has no model.

    Raises:
        JobError: the run is missing, unfinished or damaged, and what differs; or the storage does not answer.
    """
    with stop_on_request(), scratch_folder(work_dir(settings)) as scratch, told_if_full(scratch):
        store = open_store(uri, "URI", settings.s3_addressing_style)
        provide_home(scratch)
        folder = recheck(store, scratch / "run")
        if not (folder / "model").is_dir():
            return None
        task = WorkerTask(settings.model_dump(mode="json"), "", scratch, folder, eval_sets=(), inputs={})
        try:
            one = replace(find_devices(settings.num_processes), workers=1)
            care = Care(settings.hang_timeout.seconds, settings.grace_period.seconds)
            return ask_workers("recheck", task, one, care, "verified.json", Verification)
        except DataError as error:
            raise DataError(
                f"{uri}: every file is as published, but {error}; compare `environment` in its metrics.json with here"
            ) from error


@contextmanager
def opened(settings: Settings) -> Iterator[Attempt]:
    """The place of this attempt; whatever goes wrong inside is written to its `failure.json`, by the first node."""
    with stop_on_request(), attempt(settings) as place:
        try:
            with told_if_full(place.scratch), understood():
                yield place
        except Exception as error:
            failure = as_job_error(error)
            if isinstance(failure, Preempted) and place.nodes.is_first and place.status.got_nowhere:
                failure = error = no_progress(failure)
            if place.nodes.is_first:
                note_failure(place, failure)
            raise failure from None if failure is error else error


def no_progress(stopped: Preempted) -> Hang:
    """What a request to stop means to an attempt that got nowhere: free of charge it could be repeated for ever."""
    return Hang(
        f"{stopped}; this attempt took long and kept no checkpoint, so the next begins where it began: give it more "
        "time between two stops, or faster machines to prepare on"
    )


def note_failure(place: Attempt, failure: JobError) -> None:
    """Tell of it beside the run, and among its attempts."""
    store, step = place.store(attempts=2), place.status.step
    if place.diary.begun:
        place.diary.write(store, outcome=failure.kind, message=redact(str(failure)), last_step=step)
    record_failure(store, failure, {"phase": place.status.phase, "step": step})


def as_job_error(error: Exception) -> JobError:
    """Which failure an exception means."""
    if isinstance(error, JobError):
        return error
    return InternalError(f"{type(error).__name__}: {error}", traceback.format_exc())


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
        Hang: the one named is not there.
    """
    folder = place.scratch / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)  # of the round before
    if name is None:
        return task
    if name != NEWEST:
        return replace(task, resume=fetch_named(place.store(), name, folder))
    upload()
    found = fetch_newest(place.store(), folder, common(settings, task.inputs))
    if found is None:
        return task
    if not place.status.step:  # else this attempt itself made it
        place.diary.write(place.store(), first_step=found.step, last_step=found.step)
    return replace(task, resume=found.folder)


def finished_before(settings: Settings, place: Attempt, store: Store) -> bool:
    """Whether the run stands there already; if so, nothing that a killed attempt left stays beside it.

    Raises:
        JobError: it was made with other settings, or of other data.
    """
    if not published_before(settings, place, store):
        return False
    with suppress(JobError):  # who may only read still learns that it is finished
        tidy(store)
    return True
