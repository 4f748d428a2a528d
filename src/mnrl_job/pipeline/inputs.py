"""Locates, downloads and reads the inputs of a run or a check."""

from dataclasses import replace
from pathlib import Path

from mnrl_job.config.settings import NO_GATE, Settings
from mnrl_job.data.disk_space import needed_bytes
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.inputs import Inputs, fetch_inputs, locate_inputs
from mnrl_job.data.listing import listings
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.errors import SettingsError, by_kind
from mnrl_job.launch.accelerate_config import check_accelerate_file
from mnrl_job.runs.attempt import Attempt
from mnrl_job.system.devices import Devices
from mnrl_job.system.logs import warn
from mnrl_job.system.machine import caches, disk, shared_memory


def get_inputs(settings: Settings, attempt: Attempt, devices: Devices, trains: bool = True) -> Inputs:
    """Locate every input, check the disk space and shared memory, then download.

    Raises:
        JobError: an input is missing or denied, the disk is too small, or the accelerate config is not supported.
    """
    if settings.accelerate_config:
        check_accelerate_file(settings.accelerate_config, devices.workers, attempt.nodes)
    located = locate_inputs(settings)
    for finding in (disk(attempt.scratch, needed_bytes(located, settings, trains)), shared_memory(devices), caches()):
        if finding.status == "failed":
            raise by_kind(finding.kind, finding.message)
        if finding.status == "warning":
            warn(finding.message)
    listing = listings(located, settings)  # before the download, so that later changes count as other data
    return replace(fetch_inputs(located, attempt.inputs, settings), listing=listing)


def read_eval_sets(inputs: Inputs, scratch: Path, max_bad_row_ratio: float) -> tuple[EvalSet, ...]:
    """Read and check every eval set of `MNRL_EVAL_DATA`."""
    return tuple(read_evalset(source, scratch / "eval" / source.name, max_bad_row_ratio) for source in inputs.evals)


def check_eval_names(settings: Settings, eval_sets: tuple[EvalSet, ...]) -> None:
    """Check that the eval sets named in settings exist, and that there is one for the gate and early stopping.

    Raises:
        SettingsError: an eval set is missing.
    """
    names = [eval_set.name for eval_set in eval_sets]
    primary, _ = settings.primary_eval
    required = {primary: f"MNRL_PRIMARY_METRIC={settings.primary_metric}"} if primary else {}
    required |= dict.fromkeys(settings.guard_evals, f"MNRL_GUARD_EVALS={','.join(settings.guard_evals)}")
    for name, setting in required.items():
        if name not in names:
            raise SettingsError(f"{setting}: no eval set is named {name!r}; there are: {', '.join(names) or 'none'}")
    needs_eval_set = (settings.min_gain, settings.max_p_value, settings.eval_interval)
    if not names and any(value not in (None, NO_GATE) for value in needs_eval_set):
        raise SettingsError(
            "MNRL_MIN_GAIN, MNRL_MAX_P_VALUE and MNRL_EVAL_INTERVAL need an eval set; name one in MNRL_EVAL_DATA, or "
            "hold training pairs out (MNRL_HOLDOUT_RATIO)"
        )
