"""Where a worker process begins: `python -m mnrl_job.start_worker ROLE TASK.json`."""

import gc

from mnrl_job.runtime.lifeline import die_with_supervisor
from mnrl_job.runtime.local_rank import take_identity


def main() -> None:
    """Import everything with the garbage collector out of the way, a fifth sooner, then wait for the task."""
    die_with_supervisor()
    take_identity()
    gc.disable()
    from mnrl_job import worker

    gc.freeze()
    gc.enable()
    worker.main()


if __name__ == "__main__":
    main()
