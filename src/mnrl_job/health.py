"""Whether the run in this container gets on, for HEALTHCHECK and probes: `python -m mnrl_job.health`, 0 or 1."""

import json
import os
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil
from dotenv import dotenv_values

from mnrl_job.errors import SettingsError
from mnrl_job.runtime.status import FILE
from mnrl_job.runtime.watch import EXPORT, LOAD, PATIENCE_AT_FIRST, START
from mnrl_job.settings_reader import read_settings

# In these a run is told of once, when they begin; or it is only about to begin.
SILENT = ("starting", "fetch", "prepare", START, LOAD, "verify", EXPORT, "publish", "done")


def standstill(progress: Path, began: float, now: float) -> tuple[str, float]:
    """In which phase the run is, and for how many seconds it has not got on.

    Args:
        progress: the `progress.json` of the run; an earlier container may have left it.
        began: when this container did.
        now: the present moment, in seconds since 1970 as all of these.
    """
    phase, moved = "starting", began
    with suppress(OSError, ValueError, KeyError):  # not begun yet
        told = json.loads(progress.read_text(encoding="utf-8"))
        at = datetime.fromisoformat(told["updated_at"]).timestamp()
        if at > began:
            phase, moved = told["phase"], at
    return phase, now - moved


def main() -> int:
    """Say where the run stands; 1 if that has been so for longer than `MNRL_HANG_TIMEOUT` (silent: ten times that)."""
    try:
        settings, _ = read_settings("settings", {}, os.environ, dotenv_values(".env"))
    except SettingsError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    if not settings.work_dir:
        sys.stdout.write("MNRL_WORK_DIR is not set, so there is no progress.json to look at\n")
        return 1
    phase, seconds = standstill(Path(settings.work_dir) / FILE, psutil.Process(1).create_time(), time.time())
    allowed = settings.hang_timeout.seconds * (PATIENCE_AT_FIRST if phase in SILENT else 1)
    sys.stdout.write(f"{phase}: got on {seconds:.0f} s ago; {allowed:.0f} s are allowed\n")
    return int(seconds > allowed)


if __name__ == "__main__":
    sys.exit(main())
