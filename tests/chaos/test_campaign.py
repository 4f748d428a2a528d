"""Whole runs, disturbed at random: each finishes, with the weights of a run that was left alone.

`CHAOS_ROUNDS` says how many runs, `CHAOS_SEED` repeats a failure. Each run is disturbed one to three times, each
time in an attempt of its own, and then left alone.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.chaos.conftest import opened
from tests.chaos.scene import BUCKET, SEED, Place, sha256, tell
from tests.runs import Scene, make_scene, orphans, workers_of
from tests.servers.proxy import Fault, proxied

ROUNDS = int(os.environ.get("CHAOS_ROUNDS") or 50)
MOST_FAULTS = 3
SETTINGS = {"MNRL_EPOCHS": "20", "MNRL_CHECKPOINT_EVERY": "7", "MNRL_HANG_TIMEOUT": "4s"}
KINDS = ("moto", "rclone", "folder")
PATIENCE_SECONDS = 180
# So long an attempt takes about, from its start to its end.
USUAL_SECONDS = 8.0


@dataclass
class Round:
    """One run: where its output is, and how it is started."""

    scene: Scene
    place: Place
    name: str
    settings: dict[str, str]
    rng: random.Random
    told: list[str] = field(default_factory=list)

    def start(self, **settings: str) -> subprocess.Popen[bytes]:
        return self.scene.start(self.name, **SETTINGS, **self.settings | settings)

    def end(self, process: subprocess.Popen[bytes], what: str) -> int:
        code = process.wait(PATIENCE_SECONDS)
        self.told.append(f"{what}: exit {code}")
        return code

    def disturb(self, what: str, disturbance: Callable[[subprocess.Popen[bytes]], object], **settings: str) -> int:
        """Start an attempt, disturb it at a random moment unless it has ended, and wait until it ends."""
        process = self.start(**settings)
        with suppress(subprocess.TimeoutExpired):
            process.wait(self.rng.uniform(0.3, USUAL_SECONDS))
        if process.poll() is None:
            disturbance(process)
        return self.end(process, what)

    def to_any_worker(self, act: Callable[[psutil.Process], None]) -> Callable[[subprocess.Popen[bytes]], None]:
        """Do something to a worker of a run, if it has one by then."""

        def find_one(process: subprocess.Popen[bytes]) -> None:
            workers = workers_of(process, self.rng.choice(["train", "train", "verify"]))
            if workers:
                with suppress(psutil.Error):
                    act(self.rng.choice(workers))

        return find_one


Disturbance = Callable[[Round], int]


def stopped(one: Round) -> int:
    return one.disturb("stopped", lambda process: process.send_signal(one.rng.choice([signal.SIGTERM, signal.SIGINT])))


def stopped_twice(one: Round) -> int:
    def stop(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(one.rng.uniform(0, 1))
        process.send_signal(signal.SIGTERM)

    return one.disturb("stopped twice", stop)


def killed(one: Round) -> int:
    return one.disturb("killed", subprocess.Popen.kill)


def worker_killed(one: Round) -> int:
    return one.disturb("worker killed", one.to_any_worker(psutil.Process.kill))


def worker_hangs(one: Round) -> int:
    return one.disturb("worker hangs", one.to_any_worker(psutil.Process.suspend))


def frozen(one: Round) -> int:
    """The whole machine stands still for a while, longer than a hang may last."""

    def freeze(process: subprocess.Popen[bytes]) -> None:
        with suppress(psutil.Error):
            everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
            for each in everyone:
                each.suspend()
            time.sleep(one.rng.uniform(1, 6))
            for each in everyone:
                with suppress(psutil.Error):
                    each.resume()

    return one.disturb("frozen", freeze)


def storage_away(one: Round) -> int:
    """For a while, or for good."""
    how = one.rng.choice([{"kind": "reset"}, {"kind": "status", "status": 503}, {"kind": "lose"}])
    return behind_a_proxy(one, "storage away", Fault(times=one.rng.randint(1, 30), **how))


def storage_corrupts(one: Round) -> int:
    fault = Fault("corrupt", r"(GET|PUT) .*/(checkpoints|model)/", times=one.rng.randint(1, 3))
    return behind_a_proxy(one, "storage corrupts", fault)


def behind_a_proxy(one: Round, what: str, fault: Fault) -> int:
    assert one.place.server
    with proxied(one.place.server) as proxy:
        return one.disturb(what, lambda _: proxy.faults.append(fault), **proxy.environment)


def disk_full(one: Round) -> int:
    with small_disk(one.scene.folder / f"{one.name}-disk") as disk:

        def fill(_: subprocess.Popen[bytes]) -> None:
            with suppress(OSError), (disk / "filler").open("wb") as filler:
                while filler.write(bytes(1 << 16)):
                    filler.flush()

        return one.disturb("disk full", fill, MNRL_WORK_DIR=str(disk))


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def checkpoint_damaged(one: Round) -> int:
    """After the attempt, a byte of the newest checkpoint is another, or a file is gone."""
    code = killed(one)
    prefix = f"checkpoints/{max(steps)}/" if (steps := checkpoints(one)) else ""
    names = sorted(name for name in one.place.names(one.name) if prefix and name.startswith(prefix))
    if names:
        victim = one.rng.choice(names)
        content = bytearray(one.place.read(one.name, victim))
        content[one.rng.randrange(len(content))] ^= 1
        write(one.place, one.name, victim, bytes(content) if one.rng.random() < 0.7 else None)
        one.told[-1] = f"checkpoint damaged: {victim}"
    return code


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


# Each with the exit codes that tell the truth about it; 0 where it came too late.
DISTURBANCES: dict[Disturbance, set[int]] = {
    stopped: {75},
    stopped_twice: {75},
    killed: {-signal.SIGKILL},
    worker_killed: {70},
    worker_hangs: {71},
    frozen: set(),
    storage_away: {69},
    storage_corrupts: {69},
    disk_full: {78},
    checkpoint_damaged: {-signal.SIGKILL},
}
NEED_A_SERVER = {storage_away, storage_corrupts}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Scene:
    return make_scene(tmp_path_factory.mktemp("campaign"), tiny_model)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Place]]:
    openings = [contextmanager(opened)(kind, tmp_path_factory) for kind in KINDS]
    with openings[0] as first, openings[1] as second, openings[2] as third:
        yield [first, second, third]


def weights(place: Place, run: str) -> str:
    return sha256(place.read(run, "model/model.safetensors"))


@pytest.mark.chaos
def test_a_run_that_is_disturbed_ends_like_one_that_was_left_alone(scene: Scene, places: list[Place]) -> None:
    rng = random.Random(f"{SEED} campaign")
    began, expected, survived, codes = time.monotonic(), {}, Counter[str](), Counter[str]()
    for processes in ("1", "2"):
        alone = Round(scene, places[2], f"alone-{processes}", settings_of(places[2], processes), rng)
        assert alone.end(alone.start(), "alone") == 0, scene.log(alone.name)[-3000:]
        expected[processes] = weights(places[2], alone.name)
    for number in range(ROUNDS):
        place, processes = rng.choice(places), rng.choice(["1", "2"])
        one = Round(scene, place, f"round-{number}", settings_of(place, processes), rng)
        try:
            possible = [each for each in DISTURBANCES if place.server or each not in NEED_A_SERVER]
            for disturb in rng.choices(possible, k=rng.randint(1, MOST_FAULTS)):
                code = disturb(one)
                assert code in {0, *DISTURBANCES[disturb]}, one.told[-1]
                wait_for_none_left(scene)
                survived[disturb.__name__.replace("_", " ")] += 1
                codes[f"{disturb.__name__.replace('_', ' ')} -> {code}"] += 1
            assert one.end(one.start(), "left alone") == 0
            assert weights(place, one.name) == expected[processes], "other weights than undisturbed"
            left = [name for name in place.names(one.name) if name.startswith(("checkpoints", ".claims", "failure"))]
            assert left == []
            assert place.uploads() == []
        except BaseException as error:
            error.add_note(f"round {number} ({place.kind}, {processes} processes): {one.told}, seed {SEED}")
            error.add_note(scene.log(one.name)[-3000:])
            raise
    tell(f"{ROUNDS} runs disturbed in {time.monotonic() - began:.0f} s", survived)
    tell("how they ended", codes)


def settings_of(place: Place, processes: str) -> dict[str, str]:
    output = place.uri("").rstrip("/")
    return {"MNRL_OUTPUT": output, "MNRL_NUM_PROCESSES": processes, **place.environment}


def wait_for_none_left(scene: Scene) -> None:
    """The kernel ends the workers of a killed supervisor soon."""
    deadline = time.monotonic() + 10
    while left := orphans(scene):
        assert time.monotonic() < deadline, [one.cmdline() for one in left]
        time.sleep(0.1)
