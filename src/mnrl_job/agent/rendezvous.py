"""Rendezvous handler of torch elastic: node 0 decides from the heartbeats of all nodes.

Torch's own (`c10d`) detects lost nodes by comparing clocks of machines, and unpickles data from the network. This one
does neither, and keeps ranks in the order of the nodes' ranks.
"""

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from mnrl_job.agent.node_group import NodeGroup
from mnrl_job.agent.supervisor import Supervisor


class GroupRendezvous(RendezvousHandler):
    """Rendezvous of this node's workers with those of the other nodes. The workers use the `store`, too."""

    def __init__(self, group: NodeGroup, store: dist.Store, supervisor: Supervisor, run_id: str) -> None:
        self._group = group
        self._store = store
        self._supervisor = supervisor
        self._run_id = run_id

    def get_backend(self) -> str:
        return "mnrl-job"

    def next_rendezvous(self) -> RendezvousInfo:
        check = self._group.check
        self._supervisor.update(is_waiting=True)
        state = self._group.next_round(lambda: self._supervisor.request_task(None, check), self._supervisor.check)
        if not self._group.nodes.is_first:
            self._supervisor.request_task(state, check)
        self._supervisor.update(is_waiting=False)
        nodes = self._group.nodes
        return RendezvousInfo(
            dist.PrefixStore(f"round-{state.round}", self._store),
            state.members.index(nodes.rank),
            len(state.members),
            RendezvousStoreInfo(nodes.master_addr, nodes.port),
        )

    def is_closed(self) -> bool:
        return self._group.state.is_over

    def set_closed(self) -> None:
        """Node 0 decides when the run has ended."""

    def num_nodes_waiting(self) -> int:
        return int(self._group.is_resizing())

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True
