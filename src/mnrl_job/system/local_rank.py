"""The local rank of a worker.

`LOCAL_RANK` is not it: libraries use that as the index of the worker's device among the visible ones, and a worker sees
a single device, index 0. The same holds for Slurm tasks with one GPU each.
"""

import json
import os

WORKER = "MNRL_JOB_LOCAL_RANK"
# Address of the store through which the workers of a machine find each other.
STORE = "MNRL_JOB_STORE"
# For workers started by an agent: the rendezvous round, and the environment of each worker.
ROUND = "MNRL_JOB_ROUND"
IDENTITIES = "MNRL_JOB_IDENTITIES"
DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", WORKER)


def apply_identity() -> None:
    """Complete the environment of a worker that an agent started with nothing but its local rank."""
    if identities := os.environ.get(IDENTITIES):
        os.environ.update(json.loads(identities)[int(os.environ["LOCAL_RANK"])])
        # The last worker of an elastic run: libraries would take it for distributed.
        if os.environ["WORLD_SIZE"] == "1":
            for name in DISTRIBUTED:
                os.environ.pop(name, None)


def is_local_main_process() -> bool:
    """Whether this worker does what is done once per machine, such as writing a shared file."""
    return os.environ.get(WORKER, os.environ.get("LOCAL_RANK", "0")) == "0"
