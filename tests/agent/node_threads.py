"""Nodes of a run as threads of the test, connected by torch's own store."""

import threading
import time

from mnrl_job.agent import store
from mnrl_job.agent.host import HostGroup
from mnrl_job.agent.messages import GroupTimeouts
from mnrl_job.agent.peer import PeerGroup
from mnrl_job.agent.signed_store import SignedStore
from mnrl_job.errors import InternalError, JobError
from mnrl_job.launch.fingerprint import Fingerprint
from mnrl_job.launch.nodes import Nodes
from mnrl_job.launch.run_identity import RunIdentity
from tests.servers.s3 import free_port

FINGERPRINT = Fingerprint(RunIdentity({"seed": 1}, {"train/pairs": "abc"}), {"torch": "2.13.0"}, 1)
TIMEOUTS = GroupTimeouts(node=2, join=20, hang=60, last_call=0.3)
SECRET = "a secret"  # noqa: S105


def do_nothing(*_):
    pass


def run_until_stopped(group):
    """As an agent while its workers are running."""
    for _ in range(1000):
        group.check()
        time.sleep(0.01)


def hung_workers():
    return ({"phase": "train", "heartbeats": 1, "step": 4, "total_steps": 9},)


class NodeThreads:
    """The nodes of one run. `errors` has the error of each node by rank, None for success."""

    def __init__(self, max_nodes, min_nodes=None, port=None):
        self.port = port or free_port()
        self.sizes = min_nodes or max_nodes, max_nodes
        self.errors = {}
        self.threads = []
        self.rounds = []

    def start(self, rank, train=do_nothing, run_id="run", secret=SECRET, timeouts=TIMEOUTS):
        """Start a node, which calls `train` with its `NodeGroup` instead of starting workers."""
        arguments = (rank, train, run_id, secret, timeouts)
        thread = threading.Thread(target=self._run_node, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def join(self):
        """Wait for all nodes to exit. Returns their errors, ordered by rank."""
        for thread in self.threads:
            thread.join(40)
        return [self.errors[rank] for rank in sorted(self.errors)]

    def _run_node(self, rank, train, run_id, secret, timeouts):
        nodes = Nodes(*self.sizes, rank, "localhost", self.port)
        group = None
        try:
            server = store.serve(self.port, timeouts.node, do_nothing) if rank == 0 else None
            connection = store.connect(("localhost", self.port), timeouts.node, timeouts.join, do_nothing)
            messages = SignedStore(connection, run_id, secret)
            joining = (PeerGroup if rank else HostGroup)(nodes, messages, timeouts, hung_workers)
            joining.open(do_nothing)
            group = joining
            group.report(fingerprint=FINGERPRINT)
            self.rounds.append((rank, group.next_round(lambda: "step-7", do_nothing)))
            train(group)
            group.report(has_trained=True)
            if server:
                group.publish()
            while not group.state.is_published:
                group.check()
                time.sleep(0.01)
            self.errors[rank] = None
        except Exception as error:
            failure = error if isinstance(error, JobError) else InternalError(str(error))
            self.errors[rank] = group.resolve_root_cause(failure) if group else failure
        finally:
            if group:
                group.close()
