"""What can happen to a run, at a random moment of it: each in an attempt of its own, on one machine or on two nodes."""

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.places import Place
from tests.hosts import Host
from tests.program import Running
from tests.scenes import Scene, orphans, workers_of
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import BUCKET

SETTINGS = {"MNRL_EPOCHS": "20", "MNRL_CHECKPOINT_INTERVAL": "7", "MNRL_HANG_TIMEOUT": "8s"}
ON_TWO_NODES = {
    "MNRL_NUM_NODES": "2",
    "MNRL_MASTER_ADDR": "node-0:29700",
    "MNRL_NODE_TIMEOUT": "3s",
    "MNRL_NUM_PROCESSES": "1",
}
# Of a run, in their order.
PHASES = ("fetch", "prepare", "load", "evaluate_before", "train", "evaluate_after", "save", "verify", "publish", "done")
# Where most of a real run's time goes is struck more often.
STRUCK = (*PHASES[:-1], "train", "train", "train")
# Phases of these runs are as short.
LONGEST_DELAY_SECONDS = 0.3
PATIENCE_SECONDS = 180

Attempt = Running


@dataclass
class Round:
    """One run: where its output is, how it is started, and what was done to it.

    Attributes:
        pair: the two hosts that this run may also work on.
        struck: how often a disturbance came in which phase.
    """

    scene: Scene
    place: Place
    name: str
    settings: dict[str, str]
    rng: random.Random
    pair: Sequence[Host] = ()
    told: list[str] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)

    @property
    def work(self) -> Path:
        return self.scene.folder / f"{self.name}-work"

    def start(self, **settings: str) -> Attempt:
        """Start an attempt, here."""
        folder = {"MNRL_WORK_DIR": str(self.work)}
        return self.scene.start(self.name, fresh=True, **SETTINGS, **self.settings | folder | settings)

    def start_on_two_nodes(self) -> list[Attempt]:
        nodes = []
        for rank, host in enumerate(self.pair):
            folder = {"MNRL_WORK_DIR": str(self.work if rank == 0 else self.work.with_suffix(".other"))}
            chosen = SETTINGS | self.settings | ON_TWO_NODES | folder | {"MNRL_NODE_RANK": str(rank)}
            nodes.append(self.scene.start(self.name, host=host, fresh=True, **chosen))
        return nodes

    def disturb(self, what: str, disturbance: Callable[[Attempt], object], **settings: str) -> list[int]:
        """Start an attempt, disturb it unless it has ended, and wait until it ends. Returns its exit code."""
        return self.disturb_all(what, lambda: [self.start(**settings)], lambda started: disturbance(started[0]))

    def disturb_nodes(self, what: str, disturbance: Callable[[list[Attempt]], object]) -> list[int]:
        """The same on two nodes. Returns the exit codes of both."""
        return self.disturb_all(what, self.start_on_two_nodes, disturbance)

    def disturb_all(
        self, what: str, start: Callable[[], list[Attempt]], disturbance: Callable[[list[Attempt]], object]
    ) -> list[int]:
        (self.work / "progress.json").unlink(missing_ok=True)
        started = start()
        if (phase := self.moment(started)) is not None:
            disturbance(started)
            self.struck[phase] += 1
        return self.end(f"{what} ({phase})", *started)

    def moment(self, started: list[Attempt]) -> str | None:
        """Wait for a random one. Returns the phase the run is in; None if it has ended before."""
        awaited, delay = self.rng.choice(STRUCK), self.rng.uniform(0, LONGEST_DELAY_SECONDS)
        while PHASES.index(self.phase()) < PHASES.index(awaited) and started[0].poll() is None:
            time.sleep(0.01)
        with suppress(subprocess.TimeoutExpired):
            started[0].wait(delay)
        return None if started[0].poll() is not None else self.phase()

    def phase(self) -> str:
        """What the attempt is at, as a probe would learn it."""
        try:
            told = json.loads((self.work / "progress.json").read_text())["phase"]
        except FileNotFoundError:
            return PHASES[0]
        return told if told in PHASES else PHASES[0]

    def end(self, what: str, *started: Attempt) -> list[int]:
        codes = [one.wait(PATIENCE_SECONDS) for one in started]
        self.told.append(f"{what}: exit {codes}")
        return codes

    def to_any_worker(self, act: Callable[[psutil.Process], None]) -> Callable[[Attempt], None]:
        """Do something to a worker of a run, if it has one by then."""

        def find_one(process: Attempt) -> None:
            with suppress(psutil.Error):  # it may end just now
                if workers := workers_of(process, self.rng.choice(["train", "train", "verify"])):
                    act(self.rng.choice(workers))

        return find_one


Disturbance = Callable[[Round], list[int]]


def stopped(one: Round) -> list[int]:
    return one.disturb("stopped", lambda process: process.send_signal(one.rng.choice([signal.SIGTERM, signal.SIGINT])))


def stopped_twice(one: Round) -> list[int]:
    def stop(process: Attempt) -> None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(one.rng.uniform(0, 1))
        process.send_signal(signal.SIGTERM)

    return one.disturb("stopped twice", stop)


def killed(one: Round) -> list[int]:
    return one.disturb("killed", Attempt.kill)


def worker_killed(one: Round) -> list[int]:
    return one.disturb("worker killed", one.to_any_worker(psutil.Process.kill))


def worker_hangs(one: Round) -> list[int]:
    return one.disturb("worker hangs", one.to_any_worker(psutil.Process.suspend))


def frozen(one: Round) -> list[int]:
    """The whole machine stands still for a while, which may be longer than a hang may last."""

    def freeze(process: Attempt) -> None:
        with suppress(psutil.Error):
            everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
            for each in everyone:
                each.suspend()
            time.sleep(one.rng.uniform(1, 12))
            for each in everyone:
                with suppress(psutil.Error):
                    each.resume()

    return one.disturb("frozen", freeze)


def storage_away(one: Round) -> list[int]:
    """For a while, or for good."""
    how = one.rng.choice([{"kind": "reset"}, {"kind": "status", "status": 503}, {"kind": "lose"}])
    return behind_a_proxy(one, "storage away", Fault(times=one.rng.choice([3, 10, 30, 1_000_000]), **how))


def storage_corrupts(one: Round) -> list[int]:
    fault = Fault("corrupt", r"(GET|PUT) .*/(checkpoints|model)/", times=one.rng.randint(1, 3))
    return behind_a_proxy(one, "storage corrupts", fault)


def behind_a_proxy(one: Round, what: str, fault: Fault) -> list[int]:
    assert one.place.server
    with proxied(one.place.server) as proxy:
        return one.disturb(what, lambda _: proxy.faults.append(fault), **proxy.environment)


def disk_full(one: Round) -> list[int]:
    with small_disk(one.work) as disk:

        def fill(_: Attempt) -> None:
            with suppress(OSError), (disk / "filler").open("wb") as filler:
                while filler.write(bytes(1 << 16)):
                    filler.flush()

        return one.disturb("disk full", fill)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def checkpoint_damaged(one: Round) -> list[int]:
    """After the attempt, a byte of the newest checkpoint is another, or a file is gone."""
    codes = killed(one)
    prefix = f"checkpoints/{max(steps)}/" if (steps := checkpoints(one)) else ""
    names = sorted(name for name in one.place.names(one.name) if prefix and name.startswith(prefix))
    if names:
        victim = one.rng.choice(names)
        content = bytearray(one.place.read(one.name, victim))
        content[one.rng.randrange(len(content))] ^= 1
        write(one.place, one.name, victim, bytes(content) if one.rng.random() < 0.7 else None)
        one.told[-1] += f", then damaged {victim}"
    return codes


def checkpoints(one: Round) -> set[str]:
    names = [name.split("/") for name in one.place.names(one.name)]
    return {parts[1] for parts in names if parts[0] == "checkpoints" and parts[1].startswith("step-")}


def write(place: Place, run: str, name: str, content: bytes | None) -> None:
    """Put something else there, or nothing."""
    if place.server:
        at = {"Bucket": BUCKET, "Key": f"{run}/{name}"}
        client = place.server.client()
        client.delete_object(**at) if content is None else client.put_object(**at, Body=content)
    elif content is None:
        (place.root / run / name).unlink()
    else:
        (place.root / run / name).write_bytes(content)


def cable_pulled(one: Round) -> list[int]:
    """For good, or for a moment that both nodes can wait for."""

    def pull(_: list[Attempt]) -> None:
        end = one.rng.choice(one.pair)
        end.cable("down")
        if one.rng.random() < 0.3:
            time.sleep(one.rng.uniform(0, 1))
            end.cable("up")

    try:
        return one.disturb_nodes("cable pulled", pull)
    finally:
        for end in one.pair:
            end.cable("up")


def node_stopped(one: Round) -> list[int]:
    return one.disturb_nodes("node stopped", lambda nodes: one.rng.choice(nodes).send_signal(signal.SIGTERM))


def node_killed(one: Round) -> list[int]:
    return one.disturb_nodes("node killed", lambda nodes: one.rng.choice(nodes).kill())


def node_loses_a_worker(one: Round) -> list[int]:
    kill = one.to_any_worker(psutil.Process.kill)
    return one.disturb_nodes("node loses a worker", lambda nodes: kill(one.rng.choice(nodes)))


KILLED, PREEMPTED, HANG, PEER_FAILED = -signal.SIGKILL, 75, 71, 72
# Each with the exit codes that tell the truth about it; 0 where the run was past what it could harm.
ON_ONE_MACHINE: dict[Disturbance, set[int]] = {
    stopped: {PREEMPTED},
    stopped_twice: {PREEMPTED},
    killed: {KILLED},
    worker_killed: {70},
    worker_hangs: {HANG},
    frozen: set(),
    disk_full: {78},
    checkpoint_damaged: {KILLED},
}
ON_A_SERVER: dict[Disturbance, set[int]] = {storage_away: {69}, storage_corrupts: {69}}
# Hosts of their own do not reach the servers, which listen on this one: their runs go to a folder.
ON_TWO_HOSTS: dict[Disturbance, set[int]] = {
    cable_pulled: {HANG},
    node_stopped: {PREEMPTED, HANG},
    node_killed: {KILLED, HANG},
    node_loses_a_worker: {70, PEER_FAILED, HANG},
}
EXPECTED = ON_ONE_MACHINE | ON_A_SERVER | ON_TWO_HOSTS


def wait_for_none_left(scene: Scene) -> None:
    """The kernel ends the workers of a killed supervisor soon."""
    deadline = time.monotonic() + 10
    while left := orphans(scene):
        assert time.monotonic() < deadline, [one.cmdline() for one in left]
        time.sleep(0.1)


def assert_nothing_is_left(place: Place, run: str, work: Sequence[Path]) -> None:
    """Beside a published run, and in the work folders of its attempts."""
    assert [name for name in place.names(run) if name.startswith(("checkpoints", ".leases", "failure"))] == []
    assert place.uploads() == []
    for folder in work:
        assert [path.name for path in folder.iterdir() if path.name != "progress.json"] == []
