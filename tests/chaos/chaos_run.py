"""A run into which failures are injected, at random moments, on one machine or on two nodes."""

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.places import Place
from tests.hosts import Host
from tests.program import Running
from tests.scenes import Scene, orphans, workers_of

SETTINGS = {"MNRL_EPOCHS": "20", "MNRL_CHECKPOINT_INTERVAL": "7", "MNRL_HANG_TIMEOUT": "8s"}
ON_TWO_NODES = {
    "MNRL_NUM_NODES": "2",
    "MNRL_MASTER_ADDR": "node-0:29700",
    "MNRL_NODE_TIMEOUT": "3s",
    "MNRL_NUM_PROCESSES": "1",
}
# In the order of a run.
PHASES = ("fetch", "prepare", "load", "evaluate_before", "train", "evaluate_after", "save", "verify", "publish", "done")
# With weights: most of the time of a real run is training.
TARGET_PHASES = (*PHASES[:-1], "train", "train", "train")
# The phases of these runs are short.
MAX_DELAY_SECONDS = 0.3
EXIT_SECONDS = 180

Attempt = Running


@dataclass
class ChaosRun:
    """A run, and the failures injected into it.

    Attributes:
        pair: two hosts, if the run may use two nodes.
        history: the failures, and the exit codes after each.
        hits: number of failures by phase.
    """

    scene: Scene
    place: Place
    name: str
    settings: dict[str, str]
    rng: random.Random
    pair: Sequence[Host] = ()
    history: list[str] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)

    @property
    def work(self) -> Path:
        return self.scene.folder / f"{self.name}-work"

    def start(self, **settings: str) -> Attempt:
        """Start an attempt on this machine."""
        folder = {"MNRL_WORK_DIR": str(self.work)}
        return self.scene.start(self.name, fresh=True, **SETTINGS, **self.settings | folder | settings)

    def start_on_two_nodes(self) -> list[Attempt]:
        nodes = []
        for rank, host in enumerate(self.pair):
            folder = {"MNRL_WORK_DIR": str(self.work if rank == 0 else self.work.with_suffix(".other"))}
            settings = SETTINGS | self.settings | ON_TWO_NODES | folder | {"MNRL_NODE_RANK": str(rank)}
            nodes.append(self.scene.start(self.name, host=host, fresh=True, **settings))
        return nodes

    def inject(self, name: str, failure: Callable[[Attempt], object], **settings: str) -> list[int]:
        """Start an attempt, inject a failure unless it has exited, and wait for it. Returns its exit code."""
        return self.inject_into(name, lambda: [self.start(**settings)], lambda attempts: failure(attempts[0]))

    def inject_on_two_nodes(self, name: str, failure: Callable[[list[Attempt]], object]) -> list[int]:
        """The same on two nodes. Returns both exit codes."""
        return self.inject_into(name, self.start_on_two_nodes, failure)

    def inject_into(
        self, name: str, start: Callable[[], list[Attempt]], failure: Callable[[list[Attempt]], object]
    ) -> list[int]:
        (self.work / "progress.json").unlink(missing_ok=True)
        attempts = start()
        if (phase := self.wait_for_random_moment(attempts)) is not None:
            failure(attempts)
            self.hits[phase] += 1
        return self.wait(f"{name} ({phase})", *attempts)

    def wait_for_random_moment(self, attempts: list[Attempt]) -> str | None:
        """Wait for a random phase and time. Returns the phase of the run then; None if it has exited before."""
        target, delay = self.rng.choice(TARGET_PHASES), self.rng.uniform(0, MAX_DELAY_SECONDS)
        while PHASES.index(self.phase()) < PHASES.index(target) and attempts[0].poll() is None:
            time.sleep(0.01)
        with suppress(subprocess.TimeoutExpired):
            attempts[0].wait(delay)
        return None if attempts[0].poll() is not None else self.phase()

    def phase(self) -> str:
        """The phase of the attempt, from `progress.json`."""
        try:
            phase = json.loads((self.work / "progress.json").read_text())["phase"]
        except FileNotFoundError:
            return PHASES[0]
        return str(phase) if phase in PHASES else PHASES[0]

    def wait(self, name: str, *attempts: Attempt) -> list[int]:
        codes = [attempt.wait(EXIT_SECONDS) for attempt in attempts]
        self.history.append(f"{name}: exit {codes}")
        return codes

    def to_any_worker(self, act: Callable[[psutil.Process], None]) -> Callable[[Attempt], None]:
        """A failure of a random worker, if there is one at the time."""

        def act_on_worker(process: Attempt) -> None:
            with suppress(psutil.Error):  # it may exit just now
                if workers := workers_of(process, self.rng.choice(["train", "train", "verify"])):
                    act(self.rng.choice(workers))

        return act_on_worker


def wait_until_no_worker_is_left(scene: Scene) -> None:
    """The kernel kills the workers of a killed supervisor, within a moment."""
    deadline = time.monotonic() + 10
    while workers := orphans(scene):
        assert time.monotonic() < deadline, [worker.cmdline() for worker in workers]
        time.sleep(0.1)


def assert_leftovers_are_removed(place: Place, run: str, work: Sequence[Path]) -> None:
    """Nothing is left beside a published run, and in the work folders of its attempts."""
    assert [name for name in place.names(run) if name.startswith(("checkpoints", ".leases", "failure"))] == []
    assert place.uploads() == []
    for folder in work:
        assert [path.name for path in folder.iterdir() if path.name != "progress.json"] == []
