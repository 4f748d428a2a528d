"""What a run and a check do alike: inputs fetched and read, and what the workers are told."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnrl_job.errors import DataError, SettingsError, by_kind
from mnrl_job.inputs.collect import Inputs, fetch_inputs, input_hashes, locate_inputs
from mnrl_job.inputs.evalset import read_evalset
from mnrl_job.inputs.listing import find_other, listings, listings_in_reach
from mnrl_job.inputs.room import needed_bytes
from mnrl_job.json_text import dumps
from mnrl_job.outputs.publish import already_published
from mnrl_job.records import Batching, EvalSet, Export, Exports, Pairs, WorkerTask
from mnrl_job.runtime.accelerate_file import check_accelerate_file
from mnrl_job.runtime.attempt import Attempt
from mnrl_job.runtime.devices import Devices
from mnrl_job.runtime.exporters import ROLE
from mnrl_job.runtime.files import sha256_of
from mnrl_job.runtime.launch import ask_workers
from mnrl_job.runtime.logs import warn
from mnrl_job.runtime.machine import caches, disk, shared_memory
from mnrl_job.runtime.secrets import redacted
from mnrl_job.runtime.storage import Store
from mnrl_job.runtime.watch import Care
from mnrl_job.settings import NO_GATE, Settings


def get_inputs(settings: Settings, place: Attempt, devices: Devices, trains: bool = True) -> Inputs:
    """Find every input, check that the machine has room for them, then fetch.

    Raises:
        JobError: an input is missing or denied, the disk is too small, or accelerate is to do what is not supported.
    """
    if settings.accelerate_config:
        check_accelerate_file(settings.accelerate_config, devices.workers, place.nodes)
    located = locate_inputs(settings)
    for finding in (disk(place.scratch, needed_bytes(located, settings, trains)), shared_memory(devices), caches()):
        if finding.status == "failed":
            raise by_kind(finding.kind, finding.message)
        if finding.status == "warning":
            warn(finding.message)
    listing = listings(located, settings)  # first: what changes meanwhile is other data the next time
    return replace(fetch_inputs(located, place.inputs, settings), listing=listing)


def published_before(settings: Settings, place: Attempt, store: Store) -> bool:
    """Whether the run stands there already, made of what its inputs are now; one that is gone tells nothing.

    Raises:
        SettingsError: it was made with other settings.
        DataError: it was made of other data.
    """
    manifest = already_published(store, place.settings_hash)
    if manifest is None:
        return False
    was = manifest.get("inputs_listing")
    if was and place.nodes.is_first and (other := find_other(was, listings_in_reach(settings))):
        raise DataError(
            f"{other}: {place.run} was published from other data; go back to that, or choose another MNRL_RUN_ID"
        )
    return True


def read_eval_sets(inputs: Inputs, scratch: Path, max_bad_row_ratio: float) -> tuple[EvalSet, ...]:
    """Check every eval set the user named; of each so large a share may be unusable."""
    return tuple(read_evalset(source, scratch / "eval" / source.name, max_bad_row_ratio) for source in inputs.evals)


def check_eval_names(settings: Settings, eval_sets: tuple[EvalSet, ...]) -> None:
    """The eval sets that settings name must be there; and there must be one to judge by, if there is a gate.

    Raises:
        SettingsError: one is not.
    """
    names = [one.name for one in eval_sets]
    wanted, _ = settings.judged
    asked = {wanted: f"MNRL_PRIMARY_METRIC={settings.primary_metric}"} if wanted else {}
    asked |= dict.fromkeys(settings.guard_evals, f"MNRL_GUARD_EVALS={','.join(settings.guard_evals)}")
    for name, origin in asked.items():
        if name not in names:
            raise SettingsError(f"{origin}: no eval set is named {name!r}; there are: {', '.join(names) or 'none'}")
    judging = (settings.min_gain, settings.max_p_value, settings.eval_interval)
    if not names and any(one not in (None, NO_GATE) for one in judging):
        raise SettingsError(
            "MNRL_MIN_GAIN, MNRL_MAX_P_VALUE and MNRL_EVAL_INTERVAL need an eval set to judge by; name one in "
            "MNRL_EVAL_DATA, or hold training pairs out (MNRL_HOLDOUT_RATIO)"
        )


def worker_task(
    settings: Settings,
    place: Attempt,
    inputs: Inputs,
    eval_sets: tuple[EvalSet, ...],
    pairs: Pairs | None = None,
    batching: Batching | None = None,
) -> WorkerTask:
    """What the workers need to know. The plan of batches counts as an input: all must train by the same one."""
    hashes = input_hashes(inputs, eval_sets, pairs)
    if settings.accelerate_config:
        hashes["accelerate_config"] = sha256_of([Path(settings.accelerate_config)])
    if batching:
        hashes["batches"] = sha256_of([batching.plan])
    return WorkerTask(
        settings=settings.model_dump(mode="json") | {"run_id": place.run_id},
        model=inputs.model,
        guide=inputs.guide,
        scratch=place.scratch,
        staging=place.staging,
        eval_sets=eval_sets,
        inputs=hashes,
        pairs=pairs,
        batching=batching,
    )


def ask_exports(task: WorkerTask, care: Care) -> tuple[Export, ...]:
    """The saved model in the other formats that are asked for, made on the processor.

    Raises:
        JobError: it cannot be exported, or gives other embeddings then.
    """
    return ask_workers(ROLE, task, Devices(gpus=(), workers=1), care, "exports.json", Exports).exports


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON for people and programs."""
    path.write_text(dumps(redacted(content), indent=2, ensure_ascii=False), encoding="utf-8")
