"""The story of a run: one call a step, in order. This module knows every step; no step knows another."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mnrl_job.errors import DataError, InternalError, JobError, SettingsError, by_kind
from mnrl_job.evaluation.significance import compare
from mnrl_job.inputs.collect import Inputs, fetch_inputs, input_hashes, locate_inputs, needed_bytes
from mnrl_job.inputs.evalset import read_evalset, write_evalset
from mnrl_job.inputs.pairs import read_pairs
from mnrl_job.outputs.metrics import Run, metrics
from mnrl_job.outputs.model_card import model_card
from mnrl_job.outputs.publish import already_published, clear, record_failure, seal, tidy, upload
from mnrl_job.outputs.rankings import write_rankings
from mnrl_job.outputs.recheck import recheck
from mnrl_job.preparation.audit import audit
from mnrl_job.preparation.duplicates import write_text_ids
from mnrl_job.preparation.holdout import hold_out
from mnrl_job.records import (
    Comparison,
    EvalSet,
    Pairs,
    Verification,
    WorkerResult,
    WorkerTask,
    read_record,
    read_results,
    write_record,
)
from mnrl_job.runtime.attempt import Attempt, attempt, stop_on_request
from mnrl_job.runtime.claims import claimed
from mnrl_job.runtime.devices import Devices, find_devices
from mnrl_job.runtime.launch import run_workers
from mnrl_job.runtime.logs import log, warn
from mnrl_job.runtime.machine import caches, disk, shared_memory
from mnrl_job.runtime.secrets import redact
from mnrl_job.runtime.storage import open_store
from mnrl_job.runtime.storage.probe import probe
from mnrl_job.settings import Settings
from mnrl_job.training.batches import plan_epoch

HELD_OUT = "holdout"
# Below this share of the batches there could be, the user should know.
WORTH_A_WARNING = 0.9


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended well. `content` is that of `metrics.json`; None where the run had been published before."""

    run: str
    content: dict[str, Any] | None


def train(settings: Settings) -> Finished:
    """Fetch, check, prepare, evaluate before, train, evaluate after, verify by reloading, report, publish.

    Raises:
        JobError: anything that kept the run from being published; `failure.json` tells the same.
    """
    with opened(settings) as place:
        if finished_before(place):
            return Finished(place.run, None)
        probe(place.store())
        clock = Clock()
        devices = find_devices(settings.num_processes)
        with clock("fetch"):
            inputs = get_inputs(settings, place, devices)
        with clock("prepare"):
            eval_sets = read_eval_sets(inputs, place.scratch)
            read = read_pairs(inputs.train, settings, place.scratch / "pairs.arrow")
            log(f"read {read.rows} pairs from {len(inputs.train)} source(s)", rejected=read.rejected)
            pairs, text_ids, eval_sets = prepare(settings, place, read, eval_sets)
            check_primary_metric(settings, eval_sets)
            check_batch(settings, devices.workers, np.load(text_ids))
        task = worker_task(settings, place, inputs, eval_sets, pairs, text_ids)
        result = work("train", task, devices)
        with clock("verify"):
            verification = verify(task, devices)
        return report(settings, place, clock, task, result, read, verification)


def evaluate(settings: Settings) -> Finished:
    """Score one model on the eval sets: the same metrics and files as `train`, without training.

    Raises:
        JobError: anything that kept the scores from being published.
    """
    with opened(settings) as place:
        if finished_before(place):
            return Finished(place.run, None)
        probe(place.store())
        clock = Clock()
        devices = find_devices(settings.num_processes)
        with clock("fetch"):
            inputs = get_inputs(settings, place, devices)
        with clock("prepare"):
            eval_sets = read_eval_sets(inputs, place.scratch)
            check_primary_metric(settings, eval_sets)
        task = worker_task(settings, place, inputs, eval_sets)
        result = work("evaluate", task, devices)
        return report(settings, place, clock, task, result)


def verify_run(uri: str, settings: Settings) -> Verification | None:
    """Check a published run again: marker, manifest, every hash, and that the model reloads to the same embeddings.

    Returns:
        How the reloaded model compares; None for a run of `evaluate`, which has no model.

    Raises:
        JobError: the run is missing, unfinished or damaged, and what differs; or the storage does not answer.
    """
    parent = settings.work_dir or None
    with stop_on_request(), tempfile.TemporaryDirectory(prefix="mnrl-job-verify-", dir=parent) as name:
        scratch = Path(name)
        store = open_store(uri, "URI", settings.s3_addressing_style)
        folder = recheck(store, scratch / "run")
        if not (folder / "model").is_dir():
            return None
        task = WorkerTask(settings.model_dump(mode="json"), "", scratch, folder, eval_sets=(), inputs={})
        write_record(scratch / "task.json", task)
        try:
            return verify(task, find_devices(settings.num_processes))
        except InternalError as error:
            raise DataError(
                f"{uri}: every file is as published, but {error}; compare `environment` in its metrics.json with here"
            ) from error


class Clock:
    """How long each step took, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - began


@contextmanager
def opened(settings: Settings) -> Iterator[Attempt]:
    """The place of this attempt; whatever goes wrong inside is written to its `failure.json`."""
    with stop_on_request(), attempt(settings) as place:
        try:
            yield place
        except Exception as error:
            failure = error if isinstance(error, JobError) else InternalError(f"{type(error).__name__}: {error}")
            record_failure(place.store(attempts=2), failure)
            raise


def finished_before(place: Attempt) -> bool:
    """Whether the run stands there already; if so, nothing that a killed attempt left stays beside it.

    Raises:
        SettingsError: it was made with other settings.
    """
    store = place.store()
    if not already_published(store, place.settings_hash):
        return False
    tidy(store)
    return True


def get_inputs(settings: Settings, place: Attempt, devices: Devices) -> Inputs:
    """Find every input, check that the machine has room for them, then fetch.

    Raises:
        JobError: an input is missing or denied, or the disk is too small.
    """
    located = locate_inputs(settings)
    for finding in (disk(place.scratch, needed_bytes(located)), shared_memory(devices), caches()):
        if finding.status == "failed":
            raise by_kind(finding.kind, f"{finding.check}: {finding.detail}; {finding.remedy}")
        if finding.status == "warning":
            warn(f"{finding.check}: {finding.detail}; {finding.remedy}")
    return fetch_inputs(located, place.inputs, settings.base_model)


def read_eval_sets(inputs: Inputs, scratch: Path) -> tuple[EvalSet, ...]:
    """Check every eval set the user named."""
    return tuple(read_evalset(source, scratch / "eval" / source.name) for source in inputs.evals)


def worker_task(
    settings: Settings,
    place: Attempt,
    inputs: Inputs,
    eval_sets: tuple[EvalSet, ...],
    pairs: Pairs | None = None,
    text_ids: Path | None = None,
) -> WorkerTask:
    """What the workers need to know."""
    return WorkerTask(
        settings=settings.model_dump(mode="json"),
        model=inputs.model,
        scratch=place.scratch,
        staging=place.staging,
        eval_sets=eval_sets,
        inputs=input_hashes(inputs, eval_sets, pairs),
        pairs=pairs,
        text_ids=text_ids,
    )


def prepare(
    settings: Settings, place: Attempt, read: Pairs, eval_sets: tuple[EvalSet, ...]
) -> tuple[Pairs, Path, tuple[EvalSet, ...]]:
    """Number the texts, hold an eval set out where there is none, and write the audit."""
    path = place.scratch / "text_ids.npy"
    pairs, text_ids = read, write_text_ids(read, path)
    if not eval_sets and settings.eval_holdout:
        pairs, text_ids, held = hold_out(
            read, text_ids, settings.eval_holdout, settings.seed, place.scratch / "train.arrow"
        )
        np.save(path, text_ids)
        folder = place.scratch / "eval" / HELD_OUT
        eval_sets = (write_evalset(HELD_OUT, HELD_OUT, folder, held.queries, held.corpus, held.grades),)
        log(f"held out {read.rows - pairs.rows} of {read.rows} pairs as eval set '{HELD_OUT}'")
    elif not eval_sets:
        warn("no eval data and MNRL_EVAL_HOLDOUT=0: this run cannot say whether the model became better")
    write_json(place.staging / "audit.json", audit(read, pairs, text_ids, eval_sets))
    return pairs, path, eval_sets


def check_primary_metric(settings: Settings, eval_sets: tuple[EvalSet, ...]) -> None:
    """An eval set named in `MNRL_PRIMARY_METRIC` must be there."""
    wanted = settings.primary_metric.rpartition(".")[0]
    names = [one.name for one in eval_sets]
    if wanted and wanted not in names:
        raise SettingsError(
            f"MNRL_PRIMARY_METRIC={settings.primary_metric}: no eval set is named {wanted!r}; "
            f"there are: {', '.join(names) or 'none'}"
        )


def check_batch(settings: Settings, workers: int, text_ids: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    """The data must fill a global batch, and the workers share it equally."""
    size, rows = settings.batch_size, len(text_ids)
    if size % workers:
        nearest = max(1, round(size / workers)) * workers
        raise SettingsError(f"MNRL_BATCH_SIZE={size} is not a multiple of the {workers} workers; {nearest} would be")
    if size > rows:
        raise SettingsError(
            f"MNRL_BATCH_SIZE={size} is larger than the {rows} training pairs; set it to {rows} or less"
        )
    steps = len(plan_epoch(text_ids, size, settings.seed, epoch=0))
    if not steps:
        distinct = len(np.unique(text_ids[:, 1]))
        raise SettingsError(
            f"MNRL_BATCH_SIZE={size}: no batch can be filled without repeating a text; the {rows} pairs have "
            f"{distinct} distinct positives; set it lower"
        )
    used = f"{steps} batches of {size} use {steps * size} of {rows} pairs an epoch"
    if steps < WORTH_A_WARNING * (rows // size):
        warn(
            f"{used}: texts repeat too often to fill more without one meeting itself; "
            "a smaller MNRL_BATCH_SIZE uses more"
        )
    elif steps * size < rows:
        log(f"{used}; which are left out changes with the epoch")


def work(role: str, task: WorkerTask, devices: Devices) -> WorkerResult:
    """Run the workers and read what they report."""
    path = task.scratch / "task.json"
    write_record(path, task)
    run_workers(role, path, task.scratch / "outcomes", devices)
    return read_record(task.scratch / "result.json", WorkerResult)


def verify(task: WorkerTask, devices: Devices) -> Verification:
    """Reload the saved model in a fresh process and compare."""
    run_workers("verify", task.scratch / "task.json", task.scratch / "outcomes", replace(devices, workers=1))
    return read_record(task.scratch / "verified.json", Verification)


def report(
    settings: Settings,
    place: Attempt,
    clock: Clock,
    task: WorkerTask,
    result: WorkerResult,
    read: Pairs | None = None,
    verification: Verification | None = None,
) -> Finished:
    """Write what the run leaves behind, then publish it."""
    run = Run(
        id=place.run_id,
        started_at=place.started_at,
        settings=settings,
        base_model=settings.base_model,
        result=result,
        eval_sets=task.eval_sets,
        comparisons=tuple(compare_set(settings, task, result, one.name) for one in task.eval_sets),
        seconds=clock.seconds,
        pairs=read,
        verification=verification,
    )
    if task.pairs is not None:
        (place.staging / "model" / "README.md").write_text(redact(model_card(metrics(run))), encoding="utf-8")
    store = place.store()
    with claimed(store) as claim:
        if already_published(store, place.settings_hash):
            store.sweep()
            return Finished(place.run, None)
        clear(store, claim)
        with clock("publish"):
            files = upload(place.staging, store, claim, {})
        content = metrics(run)
        write_json(place.staging / "metrics.json", content)
        files = upload(place.staging, store, claim, files)
        facts = {"run_id": place.run_id, "attempt": 1, "settings_sha256": place.settings_hash, "inputs": task.inputs}
        seal(store, claim, place.staging, facts | {"files": files})
    return Finished(place.run, content)


def compare_set(settings: Settings, task: WorkerTask, result: WorkerResult, name: str) -> Comparison:
    """Before against after on one eval set, also query by query into `rankings/`."""
    before = next(one for one in result.before if one.name == name)
    after = next((one for one in result.after if one.name == name), None)
    results = read_results(before.results), read_results(after.results) if after else []
    write_rankings(task.staging / "rankings" / f"{name}.jsonl", *results)
    return compare(name, *results, settings.seed) if after else Comparison(name, before.metrics)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON for people and programs."""
    path.write_text(redact(json.dumps(content, indent=2, ensure_ascii=False)), encoding="utf-8")
