"""Which of the workers of a machine a process is.

`LOCAL_RANK` cannot tell: libraries take it for the number of this worker's device among those it sees, and a worker
sees one, which is number 0. Slurm's tasks with a GPU each are told the same.
"""

import json
import os

WORKER = "MNRL_JOB_LOCAL_RANK"
# Where the workers of one machine find one another.
STORE = "MNRL_JOB_STORE"
# Of workers that an agent starts: the round of theirs, and what each of them has for itself.
ROUND = "MNRL_JOB_ROUND"
IDENTITIES = "MNRL_JOB_IDENTITIES"
DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", WORKER)


def take_identity() -> None:
    """A worker that an agent has started knows its number only; the rest of its environment stands in a list."""
    if identities := os.environ.get(IDENTITIES):
        os.environ.update(json.loads(identities)[int(os.environ["LOCAL_RANK"])])
        if os.environ["WORLD_SIZE"] == "1":  # the last one of an elastic run; libraries would take it for distributed
            for name in DISTRIBUTED:
                os.environ.pop(name, None)


def is_first_of_machine() -> bool:
    """Whether this worker does what is done once on a machine, such as writing a file that all read."""
    return os.environ.get(WORKER, os.environ.get("LOCAL_RANK", "0")) == "0"
