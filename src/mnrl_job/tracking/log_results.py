"""Add the results of a run to one tracker: `python -m mnrl_job.tracking.log_results NAME FILE.json`. It never fails."""

import os
import sys
from pathlib import Path

from mnrl_job.system import logs
from mnrl_job.system.parent_death import die_with_supervisor
from mnrl_job.system.record_files import read_record
from mnrl_job.tracking.results import Results
from mnrl_job.tracking.trackers import left_out, open_tracker


def attach(name: str, results: Results) -> None:
    """Find the run at the tracker, or make it, add the results and end it there; what goes wrong is a warning."""
    try:
        tracker = open_tracker(name)
        tracker.begin(results.run)
        tracker.attach(results.content, results.page)
        tracker.leave(results.content["status"] == "succeeded")
    except (Exception, SystemExit) as error:
        logs.warn(left_out(name, error))


def main() -> None:
    die_with_supervisor()
    name, path = sys.argv[1:]
    results = read_record(Path(path), Results)
    logs.set_up(results.log_format)
    attach(name, results)
    sys.stderr.flush()
    os._exit(0)  # a tracker's own threads and hooks have nothing more to say


if __name__ == "__main__":
    main()
