"""The `train` command, step by step."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from mnrl_job.config.settings import Settings
from mnrl_job.errors import DataError, SettingsError
from mnrl_job.launch.fingerprint import fingerprint
from mnrl_job.launch.node_agent import NEWEST, NodeAgent, start_node_agent
from mnrl_job.launch.run_identity import RunIdentity, run_identity
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import start_workers
from mnrl_job.pipeline.finalize import RunOutcome, RunResults, finalize, start_bm25
from mnrl_job.pipeline.inputs import (
    check_eval_names,
    get_inputs,
    selection_sets,
    with_general_guard,
)
from mnrl_job.pipeline.open_attempt import open_attempt
from mnrl_job.pipeline.preparation import read_and_prepare
from mnrl_job.pipeline.published import finish_if_published
from mnrl_job.pipeline.tasks import agent_task, worker_task
from mnrl_job.pipeline.unfinished import INPUTS
from mnrl_job.report.audit import with_lengths
from mnrl_job.report.json_file import write_json
from mnrl_job.runs.attempt import Attempt, CannotResume
from mnrl_job.runs.checkpoints import fetch_named, fetch_newest, upload_checkpoints
from mnrl_job.runs.publish_lease import under_way
from mnrl_job.runs.status import PhaseTimer
from mnrl_job.storage.probe import probe
from mnrl_job.system.devices import Devices, find_devices
from mnrl_job.system.json_text import dumps
from mnrl_job.system.logs import log
from mnrl_job.system.phases import Phase
from mnrl_job.worker.results import Verification, WorkerResult


def train(settings: Settings, resumes: bool = True) -> RunOutcome:
    """Fetch, check, prepare, evaluate before, train, evaluate after, verify by reloading, report, publish.

    `resumes`: whether to resume an unfinished run if the user names none.

    Raises:
        JobError: the run could not be published; `failure.json` has the same error.
    """
    try:
        with open_attempt(settings, resumes) as attempt:
            if finish_if_published(settings, attempt, attempt.store()):
                return RunOutcome(attempt.run_uri, None)
            devices = find_devices(settings.num_processes, settings.min_gpus)
            if attempt.nodes.is_single:
                with nullcontext() if attempt.origin == "given" else under_way(attempt.store()):
                    return train_on_node(settings, attempt, devices)
            secret = settings.group_secret.get_secret_value()
            with start_node_agent(agent_task(settings, attempt, devices), devices, attempt.timeouts, secret) as agent:
                return train_on_node(settings, attempt, devices, agent)
    except CannotResume as reason:
        log(f"{reason}; starting a new run")
        return train(settings, resumes=False)


def train_on_node(settings: Settings, attempt: Attempt, devices: Devices, agent: NodeAgent | None = None) -> RunOutcome:
    """Prepare and train, as all nodes do; on node 0 also verify, report and publish."""
    nodes = attempt.nodes
    if nodes.is_first:
        probe(attempt.store())
    attempt.history.update(attempt.store())
    timer = PhaseTimer(attempt.status)
    one_device = replace(devices, workers=int(nodes.is_first))
    with (
        upload_checkpoints(attempt) as upload,
        (
            agent.stopped_on_preemption()
            if agent
            else start_workers("train", attempt.scratch, devices, attempt.timeouts)
        ) as workers,
        start_workers("verify", attempt.scratch, one_device, attempt.timeouts) as verifier,
    ):
        with timer(Phase.FETCH):
            inputs = get_inputs(settings, attempt, devices)
            if attempt.origin == "new":
                attempt.store().write(INPUTS, dumps(inputs.listing).encode())
        with timer(Phase.PREPARE):
            scratch, max_workers = attempt.scratch, nodes.max_nodes * devices.workers
            prepared = read_and_prepare(settings, inputs, scratch, scratch, max_workers)
            check_eval_names(settings, prepared.eval_sets)
            eval_sets = with_general_guard(prepared.eval_sets, settings.general_guard, attempt.scratch)
            selection = selection_sets(prepared.selection_split, settings.general_guard, attempt.scratch)
        task = worker_task(settings, attempt, inputs, eval_sets, prepared.pairs, prepared.batch_plan)
        task = replace(task, selection=selection)
        identity = run_identity(settings, task.inputs)
        resume = partial(resume_task, attempt, upload, identity)
        bm25 = start_bm25(task.eval_sets if nodes.is_first else (), settings.metric_cutoffs)
        if isinstance(workers, NodeAgent):
            result = workers.train(task, fingerprint(identity, devices.workers), resume, WorkerResult)
        else:
            result = workers.run(resume(task), "result.json", WorkerResult)
        if agent and not nodes.is_first:
            with timer(Phase.PUBLISH):
                agent.wait_until_published()
            return RunOutcome(attempt.run_uri, None, by_peer=True)
        with timer(Phase.VERIFY):
            verification = verifier.run(task, "verified.json", Verification)
    write_json(attempt.staging / "audit.json", with_lengths(prepared.audit, result.lengths))
    results = RunResults(task, result, bm25(), inputs.listing, prepared.read, verification)
    return finalize(settings, attempt, timer, results)


def resume_task(
    attempt: Attempt,
    upload: Callable[[], None],
    identity: RunIdentity,
    task: WorkerTask,
    checkpoint: str | None = NEWEST,
) -> WorkerTask:
    """The task of the workers, with the named checkpoint to resume from, or the newest if any; None starts at step 0.

    `upload` uploads the newest checkpoint of this attempt, see `upload_checkpoints`.

    Raises:
        SettingsError: the checkpoint was made with other settings.
        DataError: the checkpoint was made from other data.
        CannotResume: one of these, if the user did not name the run.
        HangTimeout: the named checkpoint cannot be downloaded.
    """
    folder = attempt.scratch / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)  # of the previous round
    if checkpoint is None:
        return task
    if checkpoint != NEWEST:
        return replace(task, resume=fetch_named(attempt.store(), checkpoint, folder))
    upload()
    try:
        newest = fetch_newest(attempt.store(), folder, identity)
    except (SettingsError, DataError) as error:
        raise CannotResume(str(error).rpartition(";")[0]) if attempt.origin == "found" else error from None
    if newest is None:
        return task
    if not attempt.status.step:  # else it is of this attempt
        attempt.history.update(attempt.store(), first_step=newest.step, last_step=newest.step)
    return replace(task, resume=newest.folder)
