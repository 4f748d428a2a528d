"""The unfinished run that the same command resumes: same settings and inputs, under a generated id."""

import json
import re
from contextlib import suppress
from typing import Any

from mnrl_job.config.settings import Settings
from mnrl_job.data.listing import find_changed_input, list_available_inputs
from mnrl_job.errors import DataError, Diverged, GateError, NotFound, SettingsError
from mnrl_job.launch.run_identity import run_identity
from mnrl_job.pipeline.inputs import input_uris
from mnrl_job.runs.publish import FAILURE, MARKER
from mnrl_job.runs.publish_lease import is_under_way
from mnrl_job.storage import Store, open_store
from mnrl_job.storage.base import read_bytes
from mnrl_job.system.logs import log
from mnrl_job.system.threads import parallel

# The listing of the inputs. It is removed with the checkpoints, so a finished run costs one request.
INPUTS = "checkpoints/inputs.json"
# A run that ended with one of these would end so again.
FINAL = [error.code for error in (SettingsError, DataError, NotFound, GateError, Diverged)]


def find_unfinished(settings: Settings) -> str | None:
    """The id of the newest unfinished run to resume. Logs which, or why an unfinished one is not resumed.

    Raises:
        JobError: `MNRL_OUTPUT` cannot be read.
    """
    output = open_store(settings.output, "MNRL_OUTPUT", settings.s3_addressing_style)
    generated = re.compile(rf"\d{{8}}-\d{{6}}-{run_identity(settings, {}).settings_hash[:6]}")
    runs = [output.join(name) for name in sorted(filter(generated.fullmatch, output.list_folders()), reverse=True)]
    listings = zip(runs, parallel(lambda run: _read_json(run, INPUTS), runs), strict=True)
    unfinished = [(run, listing) for run, listing in listings if listing and not _has_ended(run)]
    now = list_available_inputs(input_uris(settings), settings.accelerate_config) if unfinished else {}
    obstacles = []
    for run, listing in unfinished:
        name = run.label.rpartition("/")[2]
        if changed := find_changed_input(listing, now):
            obstacles.append(f"the unfinished run {name} has other inputs ({changed})")
        elif is_under_way(run):
            obstacles.append(f"the run {name} with the same settings and inputs is under way")
        else:
            log(f"resuming the unfinished run {name} with the same settings and inputs; MNRL_RUN_ID=new starts afresh")
            return name
    if obstacles:
        log(f"{obstacles[0]}; starting a new run")
    return None


def _has_ended(run: Store) -> bool:
    """Whether the run was published, or failed in a way that is final."""
    return run.stat(MARKER) is not None or _read_json(run, FAILURE).get("exit_code") in FINAL


def _read_json(run: Store, key: str) -> dict[str, Any]:
    """The content of a JSON object; empty if it is missing or damaged."""
    with suppress(ValueError, TypeError):
        return dict(json.loads(read_bytes(run, key) or b"{}"))
    return {}
