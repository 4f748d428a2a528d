"""Liveness check of the run in this container, for HEALTHCHECK and probes: `python -m mnrl_job.health` exits 0 or 1.

It runs every few seconds beside the run, so it imports almost nothing, and reads the timeout from `progress.json`.
"""

import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path

FILE = "progress.json"


def find_problem(path: Path, now: float) -> str:
    """What is wrong with the run at this time, in seconds since 1970; empty if it is healthy.

    `progress.json` is missing before a run starts, and for commands other than `train` and `evaluate`.
    """
    if not path.exists():
        return ""
    progress = json.loads(path.read_text(encoding="utf-8"))
    seconds = now - datetime.fromisoformat(progress["updated_at"]).timestamp()
    limit = progress["stale_after_seconds"]
    return f"{progress['phase']}: no progress for {seconds:.0f} s; the limit is {limit:g} s" if seconds > limit else ""


def main() -> int:
    """Check the run in `MNRL_WORK_DIR`."""
    folder = os.environ.get("MNRL_WORK_DIR")
    unset = "MNRL_WORK_DIR is not set; nothing to check"
    problem = find_problem(Path(folder).expanduser() / FILE, time.time()) if folder else unset
    sys.stdout.write(problem + "\n" if problem else "")
    return int(bool(problem))


if __name__ == "__main__":
    sys.exit(main())
