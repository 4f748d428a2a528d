"""Rendezvous of torch elastic, decided by node 0 from the heartbeats of all nodes.

Torch's own (`c10d`) finds lost nodes by comparing the clocks of machines, and reads pickles from the network; this one
does neither, and keeps the order of ranks: that of the nodes' numbers.
"""

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from mnrl_job.agent.node_group import NodeGroup
from mnrl_job.agent.supervisor import Supervisor


class GroupRendezvous(RendezvousHandler):
    """The meeting point of this node's agent.

    Args:
        group: the nodes of the run.
        store: where workers find one another, too.
        supervisor: has the checkpoint of each round fetched.
        run_id: names the run.
    """

    def __init__(self, group: NodeGroup, store: dist.Store, supervisor: Supervisor, run_id: str) -> None:
        self._group = group
        self._store = store
        self._supervisor = supervisor
        self._run_id = run_id

    def get_backend(self) -> str:
        return "mnrl-job"

    def next_rendezvous(self) -> RendezvousInfo:
        check = self._group.check
        state = self._group.next_round(lambda: self._supervisor.prepare_round(None, check), self._supervisor.check)
        if not self._group.nodes.is_first:
            self._supervisor.prepare_round(state, check)
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
        """Node 0 decides when a run is over."""

    def num_nodes_waiting(self) -> int:
        return int(self._group.is_resizing())

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True
