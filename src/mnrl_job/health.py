"""Whether the run in this container gets on, for HEALTHCHECK and probes: `python -m mnrl_job.health` ends with 0 or 1.

It runs again and again beside the work, so it imports next to nothing, and takes from `progress.json` what is allowed.
"""

import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path

FILE = "progress.json"


def complaint(progress: Path, now: float) -> str:
    """What is wrong with the run that tells of itself in this file; empty for nothing.

    Args:
        progress: it is missing before a run begins, and for commands that are no runs.
        now: the present moment, in seconds since 1970.
    """
    if not progress.exists():
        return ""
    told = json.loads(progress.read_text(encoding="utf-8"))
    seconds = now - datetime.fromisoformat(told["updated_at"]).timestamp()
    if seconds <= told["stale_after_seconds"]:
        return ""
    return f"{told['phase']}: has not got on for {seconds:.0f} s; {told['stale_after_seconds']:g} s are allowed"


def main() -> int:
    """Look at the run in `MNRL_WORK_DIR`."""
    folder = os.environ.get("MNRL_WORK_DIR")
    nothing = "MNRL_WORK_DIR is not set; nothing to look at"
    found = complaint(Path(folder).expanduser() / FILE, time.time()) if folder else nothing
    sys.stdout.write(found + "\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
