"""The inputs of a run or a check: found, fetched, read."""

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


def read_eval_sets(inputs: Inputs, scratch: Path, max_bad_row_ratio: float) -> tuple[EvalSet, ...]:
    """Check every eval set the user named; of each so large a share may be unusable."""
    return tuple(read_evalset(source, scratch / "eval" / source.name, max_bad_row_ratio) for source in inputs.evals)


def check_eval_names(settings: Settings, eval_sets: tuple[EvalSet, ...]) -> None:
    """The eval sets that settings name must be there; and there must be one to judge by, if there is a gate.

    Raises:
        SettingsError: one is not.
    """
    names = [one.name for one in eval_sets]
    wanted, _ = settings.primary_eval
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
