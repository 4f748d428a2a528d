"""An elastic run on three hosts whose nodes are killed, cut off and stopped, and always started again."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.disturbances import HANG, KILLED, PEER_FAILED, PREEMPTED, Attempt
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
# Nodes start within that, and a few checkpoints are made.
LONGEST_CALM_SECONDS = 8
PATIENCE_SECONDS = 240
PAUSE_SECONDS = 0.05


@dataclass
class ElasticJob:
    """A node on each host that is started again whenever it fails, as a controller of Jobs does.

    Attributes:
        nodes: the attempt of each node that runs, or ended well.
        killed: nodes that were, so that no other end surprises.
        told: what was done to which node, and how nodes ended.
        ends: how often nodes ended with which exit code.
    """

    scene: Scene
    place: Place
    name: str
    rng: random.Random
    hosts: Sequence[Host]
    nodes: list[Attempt] = field(default_factory=list)
    killed: set[int] = field(default_factory=set)
    told: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)

    def work(self, rank: int) -> Path:
        return self.scene.folder / f"{self.name}-work-{rank}"

    def log(self, rank: int) -> str:
        return self.scene.log(f"{self.name}-{rank}")

    def start(self) -> None:
        """Start all nodes."""
        self.nodes = [self._start(rank) for rank in range(len(self.hosts))]

    def tend_until_some_moment(self) -> None:
        """Half of them while it trains, the others at any time."""
        if self.rng.random() < 0.5:
            before = self.checkpoints()
            self.tend(PATIENCE_SECONDS, lambda: bool(self.checkpoints() - before))
        self.tend(self.rng.uniform(0, LONGEST_CALM_SECONDS))

    def tend(self, seconds: float, is_enough: Callable[[], bool] = lambda: False) -> None:
        """Start nodes that fail again, for so long, or until that is enough or all have ended well."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.is_done() and not is_enough():
            for rank, node in enumerate(self.nodes):
                if node.poll():
                    self._note_end(rank, node.wait())
                    self.nodes[rank] = self._start(rank)
            time.sleep(PAUSE_SECONDS)

    def is_done(self) -> bool:
        return all(node.poll() == 0 for node in self.nodes)

    def is_published(self) -> bool:
        return (self.place.root / self.name / "_SUCCESS").exists()

    def checkpoints(self) -> set[str]:
        return {path.parent.name for path in (self.place.root / self.name).glob("checkpoints/*/manifest.json")}

    def say(self, what: str) -> None:
        self.told.append(f"{time.monotonic():.1f} {what}")

    def any_rank(self) -> int:
        return self.rng.randrange(len(self.hosts))

    def _note_end(self, rank: int, code: int) -> None:
        self.say(f"node {rank} ended {code}")
        self.ends[f"exit {code}"] += 1
        assert code in DOCUMENTED | ({KILLED} if rank in self.killed else set()), self.told
        self.killed.discard(rank)

    def _start(self, rank: int) -> Attempt:
        own = {"MNRL_OUTPUT": str(self.place.root), "MNRL_WORK_DIR": str(self.work(rank)), "MNRL_NODE_RANK": str(rank)}
        settings = SETTINGS | ON_TWO_OR_THREE | own
        return self.scene.start(self.name, f"{self.name}-{rank}", self.hosts[rank], fresh=True, **settings)


def node_killed(job: ElasticJob) -> None:
    _kill(job, job.rng.randrange(1, len(job.hosts)))


def node_0_killed(job: ElasticJob) -> None:
    _kill(job, 0)


def node_stopped(job: ElasticJob) -> None:
    rank = job.any_rank()
    job.say(f"node {rank} asked to stop")
    job.nodes[rank].send_signal(signal.SIGTERM)


def cable_pulled(job: ElasticJob) -> None:
    """Until that node has ended."""
    rank = job.any_rank()
    job.say(f"cable of node {rank} pulled")
    job.hosts[rank].cable("down")
    try:
        job.nodes[rank].wait(PATIENCE_SECONDS)
    finally:
        job.hosts[rank].cable("up")


def _kill(job: ElasticJob, rank: int) -> None:
    job.say(f"node {rank} killed")
    job.killed.add(rank)
    job.nodes[rank].kill()


Incident = Callable[[ElasticJob], None]
INCIDENTS: tuple[Incident, ...] = (node_killed, node_0_killed, node_stopped, cable_pulled)
