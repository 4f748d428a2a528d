"""The story of a run: one call a step, in order. This module knows every step; no step knows another."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mnrl_job.errors import InternalError, JobError, SettingsError
from mnrl_job.evaluation.significance import compare
from mnrl_job.inputs.evalset import read_evalset, write_evalset
from mnrl_job.inputs.fetch import base_model, fetch, local_path
from mnrl_job.inputs.pairs import read_pairs
from mnrl_job.outputs.metrics import Run, metrics
from mnrl_job.outputs.model_card import model_card
from mnrl_job.outputs.publish import already_published, record_failure, seal, upload
from mnrl_job.outputs.rankings import write_rankings
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
from mnrl_job.runtime.devices import Devices, find_devices
from mnrl_job.runtime.launch import run_workers
from mnrl_job.runtime.logs import log, warn
from mnrl_job.settings import Settings
from mnrl_job.training.batches import plan_epoch

HELD_OUT = "holdout"
# Below this share of the batches there could be, the user should know.
WORTH_A_WARNING = 0.9


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended well. `content` is that of `metrics.json`; None where the run had been published before."""

    folder: Path
    content: dict[str, Any] | None


def train(settings: Settings) -> Finished:
    """Fetch, check, prepare, evaluate before, train, evaluate after, verify by reloading, report, publish.

    Raises:
        JobError: anything that kept the run from being published; `failure.json` tells the same.
    """
    with opened(settings) as place:
        if already_published(place.run, place.settings_hash):
            return Finished(place.run, None)
        clock = Clock()
        devices = find_devices(settings.num_processes)
        with clock("fetch"):
            model = base_model(settings.base_model)
            sources = tuple(fetch(source, "MNRL_TRAIN_DATA") for source in settings.train_data)
        with clock("prepare"):
            eval_sets = read_eval_sets(settings, place)
            read = read_pairs(sources, settings, place.scratch / "pairs.arrow")
            log(f"read {read.rows} pairs from {len(sources)} source(s)", rejected=read.rejected)
            pairs, text_ids, eval_sets = prepare(settings, place, read, eval_sets)
            check_primary_metric(settings, eval_sets)
            check_batch(settings, devices.workers, np.load(text_ids))
        task = WorkerTask(
            settings.model_dump(mode="json"), model, place.scratch, place.staging, eval_sets, pairs, text_ids
        )
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
        if already_published(place.run, place.settings_hash):
            return Finished(place.run, None)
        clock = Clock()
        devices = find_devices(settings.num_processes)
        with clock("fetch"):
            model = base_model(settings.base_model)
        with clock("prepare"):
            eval_sets = read_eval_sets(settings, place)
            check_primary_metric(settings, eval_sets)
        task = WorkerTask(settings.model_dump(mode="json"), model, place.scratch, place.staging, eval_sets)
        result = work("evaluate", task, devices)
        return report(settings, place, clock, task, result)


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
    with stop_on_request(), attempt(settings, local_path(settings.output, "MNRL_OUTPUT")) as place:
        try:
            yield place
        except Exception as error:
            failure = error if isinstance(error, JobError) else InternalError(f"{type(error).__name__}: {error}")
            record_failure(place.run, failure)
            raise


def read_eval_sets(settings: Settings, place: Attempt) -> tuple[EvalSet, ...]:
    """Fetch and check every eval set the user named."""
    return tuple(
        read_evalset(fetch(source, "MNRL_EVAL_DATA"), place.scratch / "eval" / source.name)
        for source in settings.eval_data
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
        (place.staging / "model" / "README.md").write_text(model_card(metrics(run)), encoding="utf-8")
    with clock("publish"):
        files = upload(place.staging, place.run, {})
    content = metrics(run)
    write_json(place.staging / "metrics.json", content)
    files = upload(place.staging, place.run, files)
    inputs = {source.name: source.sha256 for source in (read.sources if read else ())}
    seal(place.run, files, place.settings_hash, inputs | {one.name: one.sha256 for one in task.eval_sets})
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
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
