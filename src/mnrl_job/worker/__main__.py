"""Where a worker process begins: `python -m mnrl_job.worker ROLE TASK.json`."""

import gc

from mnrl_job.system.local_rank import apply_identity
from mnrl_job.system.parent_death import die_with_supervisor


def main() -> None:
    """Import everything with the garbage collector out of the way, a fifth sooner, then wait for the task."""
    die_with_supervisor()
    apply_identity()
    gc.disable()
    from mnrl_job.worker import main as worker

    gc.freeze()
    gc.enable()
    worker.main()


if __name__ == "__main__":
    main()
