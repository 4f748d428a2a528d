"""How workers join their process group: over a file on one machine, over the agents' store on several nodes."""

import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from mnrl_job.system.local_rank import ROUND, STORE


def process_group(timeout: timedelta) -> dict[str, Any]:
    """The arguments of `torch.distributed.init_process_group`; none for a single process. The timeout is for joining.

    By default rank 0 would listen on all addresses, even if all workers are on one machine. And each round of workers
    needs its own keys, since those of the previous round are still in the store.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        return {}
    store: dist.Store
    if STORE in os.environ:
        store = dist.FileStore(os.environ[STORE], world_size)
        store.set_timeout(timeout)
    else:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        server = dist.TCPStore(address, port, timeout=timeout, wait_for_workers=False)
        store = dist.PrefixStore(f"workers-{os.environ[ROUND]}", server)
    return {"store": store, "rank": int(os.environ["RANK"]), "world_size": world_size}
