"""An elastic run on three hosts, whose nodes are killed, disconnected and preempted, and always restarted."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.chaos_run import Attempt
from tests.chaos.injected_failures import HANG, KILLED, PEER_FAILED, PREEMPTED
from tests.chaos.places import Place
from tests.hosts import Host
from tests.scenes import Scene

SETTINGS = {"MNRL_EPOCHS": "200", "MNRL_CHECKPOINT_INTERVAL": "20", "MNRL_NUM_PROCESSES": "1"}
ON_TWO_OR_THREE = {
    "MNRL_NUM_NODES": "2:3",
    "MNRL_MASTER_ADDR": "node-0:29700",
    "MNRL_NODE_TIMEOUT": "3s",
    "MNRL_JOIN_TIMEOUT": "25s",
    "MNRL_HANG_TIMEOUT": "30s",
}
DOCUMENTED = {0, HANG, PEER_FAILED, PREEMPTED}
# Enough for nodes to start, and for a few checkpoints.
MAX_CALM_SECONDS = 8
EXIT_SECONDS = 240
POLL_SECONDS = 0.05


@dataclass
class ElasticJob:
    """A node on each host, restarted whenever it fails, as by the Job controller of Kubernetes.

    Attributes:
        nodes: the current attempt of each node, or the one that succeeded.
        killed: ranks of the nodes that were killed.
        history: incidents and exits of nodes.
        ends: number of exits by exit code.
    """

    scene: Scene
    place: Place
    name: str
    rng: random.Random
    hosts: Sequence[Host]
    nodes: list[Attempt] = field(default_factory=list)
    killed: set[int] = field(default_factory=set)
    history: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)

    def work(self, rank: int) -> Path:
        return self.scene.folder / f"{self.name}-work-{rank}"

    def log(self, rank: int) -> str:
        return self.scene.log(f"{self.name}-{rank}")

    def start(self) -> None:
        """Start all nodes."""
        self.nodes = [self._start(rank) for rank in range(len(self.hosts))]

    def supervise_until_random_moment(self) -> None:
        """Half of the moments are during training, the others at any time."""
        if self.rng.random() < 0.5:
            before = self.checkpoints()
            self.supervise(EXIT_SECONDS, lambda: bool(self.checkpoints() - before))
        self.supervise(self.rng.uniform(0, MAX_CALM_SECONDS))

    def supervise(self, seconds: float, is_enough: Callable[[], bool] = lambda: False) -> None:
        """Restart nodes that fail, for this many seconds, or until `is_enough()` or all have succeeded."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.is_done() and not is_enough():
            for rank, node in enumerate(self.nodes):
                if node.poll():
                    self._note_exit(rank, node.wait())
                    self.nodes[rank] = self._start(rank)
            time.sleep(POLL_SECONDS)

    def is_done(self) -> bool:
        return all(node.poll() == 0 for node in self.nodes)

    def is_published(self) -> bool:
        return (self.place.root / self.name / "_SUCCESS").exists()

    def checkpoints(self) -> set[str]:
        return {path.parent.name for path in (self.place.root / self.name).glob("checkpoints/*/manifest.json")}

    def note(self, event: str) -> None:
        self.history.append(f"{time.monotonic():.1f} {event}")

    def any_rank(self) -> int:
        return self.rng.randrange(len(self.hosts))

    def _note_exit(self, rank: int, code: int) -> None:
        self.note(f"node {rank} exited with {code}")
        self.ends[f"exit {code}"] += 1
        assert code in DOCUMENTED | ({KILLED} if rank in self.killed else set()), self.history
        self.killed.discard(rank)

    def _start(self, rank: int) -> Attempt:
        node_settings = {
            "MNRL_OUTPUT": str(self.place.root),
            "MNRL_WORK_DIR": str(self.work(rank)),
            "MNRL_NODE_RANK": str(rank),
        }
        settings = SETTINGS | ON_TWO_OR_THREE | node_settings
        return self.scene.start(self.name, f"{self.name}-{rank}", self.hosts[rank], fresh=True, **settings)


def node_killed(job: ElasticJob) -> None:
    _kill(job, job.rng.randrange(1, len(job.hosts)))


def node_0_killed(job: ElasticJob) -> None:
    _kill(job, 0)


def node_stopped(job: ElasticJob) -> None:
    rank = job.any_rank()
    job.note(f"node {rank} preempted")
    job.nodes[rank].send_signal(signal.SIGTERM)


def cable_pulled(job: ElasticJob) -> None:
    """Until that node has exited."""
    rank = job.any_rank()
    job.note(f"cable of node {rank} pulled")
    job.hosts[rank].cable("down")
    try:
        job.nodes[rank].wait(EXIT_SECONDS)
    finally:
        job.hosts[rank].cable("up")


def _kill(job: ElasticJob, rank: int) -> None:
    job.note(f"node {rank} killed")
    job.killed.add(rank)
    job.nodes[rank].kill()


Incident = Callable[[ElasticJob], None]
INCIDENTS: tuple[Incident, ...] = (node_killed, node_0_killed, node_stopped, cable_pulled)
