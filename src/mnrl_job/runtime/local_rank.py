"""Which of the workers of a machine a process is.

`LOCAL_RANK` cannot tell: libraries take it for the number of this worker's device among those it sees, and a worker
sees one, which is number 0. Slurm's tasks with a GPU each are told the same.
"""

import os

WORKER = "MNRL_JOB_LOCAL_RANK"


def is_first_of_machine() -> bool:
    """Whether this worker does what is done once on a machine, such as writing a file that all read."""
    return os.environ.get(WORKER, os.environ.get("LOCAL_RANK", "0")) == "0"
