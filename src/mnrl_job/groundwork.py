"""Everything before the workers start, for a run and a check alike: inputs fetched, read, prepared and sufficient."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mnrl_job.errors import SettingsError, by_kind
from mnrl_job.inputs.collect import Inputs, fetch_inputs, input_hashes, locate_inputs, needed_bytes
from mnrl_job.inputs.evalset import read_evalset, write_evalset
from mnrl_job.preparation.audit import audit
from mnrl_job.preparation.duplicates import write_text_ids
from mnrl_job.preparation.holdout import hold_out
from mnrl_job.records import EvalSet, Pairs, WorkerTask
from mnrl_job.runtime.attempt import Attempt
from mnrl_job.runtime.devices import Devices
from mnrl_job.runtime.logs import log, warn
from mnrl_job.runtime.machine import caches, disk, shared_memory
from mnrl_job.runtime.secrets import redact
from mnrl_job.settings import Settings
from mnrl_job.training.batches import plan_epoch

HELD_OUT = "holdout"
# Below this share of the batches there could be, the user should know.
WORTH_A_WARNING = 0.9


def get_inputs(settings: Settings, place: Attempt, devices: Devices) -> Inputs:
    """Find every input, check that the machine has room for them, then fetch.

    Raises:
        JobError: an input is missing or denied, or the disk is too small.
    """
    located = locate_inputs(settings)
    for finding in (disk(place.scratch, needed_bytes(located)), shared_memory(devices), caches()):
        if finding.status == "failed":
            raise by_kind(finding.kind, finding.message)
        if finding.status == "warning":
            warn(finding.message)
    return fetch_inputs(located, place.inputs, settings.base_model)


def read_eval_sets(inputs: Inputs, scratch: Path) -> tuple[EvalSet, ...]:
    """Check every eval set the user named."""
    return tuple(read_evalset(source, scratch / "eval" / source.name) for source in inputs.evals)


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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON for people and programs."""
    path.write_text(redact(json.dumps(content, indent=2, ensure_ascii=False)), encoding="utf-8")
