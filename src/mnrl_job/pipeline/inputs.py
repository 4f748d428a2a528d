"""Locates, downloads and reads the inputs of a run or a check."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mnrl_job.config.evaluation_settings import GENERAL_SEARCH
from mnrl_job.config.settings import NO_GATE, Settings
from mnrl_job.data.columns import ColumnNames
from mnrl_job.data.disk_space import needed_bytes
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.inputs import Inputs, InputUris, LocatedInputs, fetch_inputs, locate_inputs
from mnrl_job.data.listing import list_inputs
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.read_pairs import ReadOptions
from mnrl_job.data.sources import LocalSource
from mnrl_job.errors import SettingsError, by_kind
from mnrl_job.evaluation.general_guard import read_general_search
from mnrl_job.launch.accelerate_config import check_accelerate_file
from mnrl_job.launch.worker_task import SelectionSets
from mnrl_job.pipeline.find_prepared import with_prepared
from mnrl_job.runs.attempt import Attempt
from mnrl_job.system.devices import Devices
from mnrl_job.system.logs import log, warn
from mnrl_job.system.machine import caches, disk, shared_memory


def input_uris(settings: Settings) -> InputUris:
    return InputUris(
        settings.train_data,
        settings.eval_data,
        settings.base_model,
        settings.guide_model,
        settings.s3_addressing_style,
    )


def read_options(settings: Settings) -> ReadOptions:
    names = ColumnNames(settings.anchor_column, settings.positive_column, settings.negative_columns)
    return ReadOptions(names, settings.row_filter, settings.max_bad_row_ratio)


def needed_scratch_bytes(settings: Settings, located: LocatedInputs, trains: bool = True) -> int:
    return needed_bytes(
        located,
        trains=trains,
        adapter_only=settings.lora_rank is not None,
        keeps_best=settings.eval_interval is not None,
    )


def get_inputs(settings: Settings, attempt: Attempt, devices: Devices, trains: bool = True) -> Inputs:
    """Locate every input, check that the machine has room for them, then fetch. Of a prepared data set only the models.

    Raises:
        JobError: an input is missing or denied, the disk is too small, or the accelerate configuration is unsupported.
    """
    if settings.accelerate_config:
        check_accelerate_file(settings.accelerate_config, devices.workers, attempt.nodes)
    located = locate_inputs(input_uris(settings))
    # Listed before fetching: data that changes in between must count as changed the next time.
    listing = list_inputs(located, settings.accelerate_config)
    if trains:
        located = with_prepared(settings, located, listing)
    return replace(fetch_if_room(settings, attempt, devices, located, trains), listing=listing)


def fetch_if_room(
    settings: Settings, attempt: Attempt, devices: Devices, located: LocatedInputs, trains: bool
) -> Inputs:
    """Check that the machine has room for the inputs, then fetch them.

    Raises:
        JobError: the disk is too small, or a download failed.
    """
    log(f"run {attempt.run_id}: reading the data", run_id=attempt.run_id)
    for finding in (
        disk(attempt.scratch, needed_scratch_bytes(settings, located, trains)),
        shared_memory(devices),
        caches(),
    ):
        if finding.status == "failed":
            raise by_kind(finding.kind, finding.message)
        if finding.status == "warning":
            warn(finding.message)
    return fetch_inputs(located, input_uris(settings), attempt.inputs)


def read_eval_sets(sources: Iterable[LocalSource], scratch: Path, max_bad_row_ratio: float) -> tuple[EvalSet, ...]:
    """Read and check every given eval set. Up to `max_bad_row_ratio` of the rows of each part may be unusable."""
    return tuple(read_evalset(source, scratch / "eval" / source.name, max_bad_row_ratio) for source in sources)


def with_general_guard(
    eval_sets: tuple[EvalSet, ...], general_guard: Literal["on", "off"], scratch: Path
) -> tuple[EvalSet, ...]:
    """Append the general guard to the eval sets, if it is on. Without an eval set there is none either."""
    if general_guard == "off" or not eval_sets:
        return eval_sets
    return (*eval_sets, read_general_search(scratch / "eval" / GENERAL_SEARCH))


def selection_sets(split: EvalSet | None, general_guard: Literal["on", "off"], scratch: Path) -> SelectionSets | None:
    """The eval sets to select weights on; of the general guard the half that is not reported."""
    if split is None:
        return None
    folder = scratch / "selection" / GENERAL_SEARCH
    return SelectionSets(split, read_general_search(folder, reported=False) if general_guard == "on" else None)


def check_eval_names(settings: Settings, eval_sets: tuple[EvalSet, ...]) -> None:
    """Check that the eval sets that settings name exist, and that there is one if there is a gate.

    Raises:
        SettingsError: an eval set is missing.
    """
    names = [eval_set.name for eval_set in eval_sets]
    wanted, _ = settings.primary_eval
    required = {wanted: f"MNRL_PRIMARY_METRIC={settings.primary_metric}"} if wanted else {}
    required |= dict.fromkeys(settings.guard_evals, f"MNRL_GUARD_EVALS={','.join(settings.guard_evals)}")
    for name, origin in required.items():
        if name not in names:
            raise SettingsError(f"{origin}: no eval set is named {name!r}; there are: {', '.join(names) or 'none'}")
    gate_settings = (settings.min_gain, settings.max_p_value, settings.max_guard_loss)
    if not names and any(value not in (None, NO_GATE) for value in gate_settings):
        raise SettingsError(
            "MNRL_MIN_GAIN, MNRL_MAX_P_VALUE and MNRL_MAX_GUARD_LOSS need an eval set; name one in MNRL_EVAL_DATA, or "
            "hold training pairs out (MNRL_HOLDOUT_RATIO)"
        )
