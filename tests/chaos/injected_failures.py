"""Failures that can happen to a run, each injected into an attempt at a random moment."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.chaos.chaos_run import Attempt, ChaosRun
from tests.chaos.places import Place
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import BUCKET

InjectedFailure = Callable[[ChaosRun], list[int]]


def stopped(run: ChaosRun) -> list[int]:
    return run.inject("stopped", lambda process: process.send_signal(run.rng.choice([signal.SIGTERM, signal.SIGINT])))


def stopped_twice(run: ChaosRun) -> list[int]:
    def stop(process: Attempt) -> None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(run.rng.uniform(0, 1))
        process.send_signal(signal.SIGTERM)

    return run.inject("stopped twice", stop)


def killed(run: ChaosRun) -> list[int]:
    return run.inject("killed", Attempt.kill)


def worker_killed(run: ChaosRun) -> list[int]:
    return run.inject("worker killed", run.to_any_worker(psutil.Process.kill))


def worker_hangs(run: ChaosRun) -> list[int]:
    return run.inject("worker hangs", run.to_any_worker(psutil.Process.suspend))


def frozen(run: ChaosRun) -> list[int]:
    """All processes are suspended for a while, which may be longer than the hang timeout."""

    def freeze(process: Attempt) -> None:
        with suppress(psutil.Error):
            processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
            for suspended in processes:
                suspended.suspend()
            time.sleep(run.rng.uniform(1, 12))
            for suspended in processes:
                with suppress(psutil.Error):
                    suspended.resume()

    return run.inject("frozen", freeze)


def storage_unavailable(run: ChaosRun) -> list[int]:
    """The storage is unavailable for a while, or permanently."""
    kind = run.rng.choice([{"kind": "reset"}, {"kind": "status", "status": 503}, {"kind": "lose"}])
    return inject_through_proxy(run, "storage unavailable", Fault(times=run.rng.choice([3, 10, 30, 1_000_000]), **kind))


def storage_corrupts(run: ChaosRun) -> list[int]:
    fault = Fault("corrupt", r"(GET|PUT) .*/(checkpoints|model)/", times=run.rng.randint(1, 3))
    return inject_through_proxy(run, "storage corrupts", fault)


def inject_through_proxy(run: ChaosRun, name: str, fault: Fault) -> list[int]:
    assert run.place.server
    with proxied(run.place.server) as proxy:
        return run.inject(name, lambda _: proxy.faults.append(fault), **proxy.environment)


def disk_full(run: ChaosRun) -> list[int]:
    with small_disk(run.work) as disk:

        def fill(_: Attempt) -> None:
            with suppress(OSError), (disk / "filler").open("wb") as filler:
                while filler.write(bytes(1 << 16)):
                    filler.flush()

        return run.inject("disk full", fill)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def checkpoint_damaged(run: ChaosRun) -> list[int]:
    """After the attempt, a byte of the newest checkpoint is changed, or a file is missing."""
    codes = killed(run)
    prefix = f"checkpoints/{max(steps)}/" if (steps := checkpoints(run)) else ""
    names = sorted(name for name in run.place.names(run.name) if prefix and name.startswith(prefix))
    if names:
        name = run.rng.choice(names)
        data = bytearray(run.place.read(run.name, name))
        data[run.rng.randrange(len(data))] ^= 1
        write(run.place, run.name, name, bytes(data) if run.rng.random() < 0.7 else None)
        run.history[-1] += f", then damaged {name}"
    return codes


def checkpoints(run: ChaosRun) -> set[str]:
    names = [name.split("/") for name in run.place.names(run.name)]
    return {parts[1] for parts in names if parts[0] == "checkpoints" and parts[1].startswith("step-")}


def write(place: Place, run: str, name: str, data: bytes | None) -> None:
    """Replace a file of a run, or delete it if there is no data."""
    if place.server:
        key = {"Bucket": BUCKET, "Key": f"{run}/{name}"}
        client = place.server.client()
        client.delete_object(**key) if data is None else client.put_object(**key, Body=data)
    elif data is None:
        (place.root / run / name).unlink()
    else:
        (place.root / run / name).write_bytes(data)


def cable_pulled(run: ChaosRun) -> list[int]:
    """The cable of a node is pulled permanently, or for less than the node timeout."""

    def pull(_: list[Attempt]) -> None:
        host = run.rng.choice(run.pair)
        host.cable("down")
        if run.rng.random() < 0.3:
            time.sleep(run.rng.uniform(0, 1))
            host.cable("up")

    try:
        return run.inject_on_two_nodes("cable pulled", pull)
    finally:
        for host in run.pair:
            host.cable("up")


def node_stopped(run: ChaosRun) -> list[int]:
    return run.inject_on_two_nodes("node stopped", lambda nodes: run.rng.choice(nodes).send_signal(signal.SIGTERM))


def node_killed(run: ChaosRun) -> list[int]:
    return run.inject_on_two_nodes("node killed", lambda nodes: run.rng.choice(nodes).kill())


def node_loses_a_worker(run: ChaosRun) -> list[int]:
    kill = run.to_any_worker(psutil.Process.kill)
    return run.inject_on_two_nodes("node loses a worker", lambda nodes: kill(run.rng.choice(nodes)))


KILLED, PREEMPTED, HANG, PEER_FAILED = -signal.SIGKILL, 75, 71, 72
# With the expected exit codes, beside 0 if the failure came too late to matter.
ON_ONE_MACHINE: dict[InjectedFailure, set[int]] = {
    stopped: {PREEMPTED},
    stopped_twice: {PREEMPTED},
    killed: {KILLED},
    worker_killed: {70},
    worker_hangs: {HANG},
    frozen: set(),
    disk_full: {78},
    checkpoint_damaged: {KILLED},
}
ON_A_SERVER: dict[InjectedFailure, set[int]] = {storage_unavailable: {69}, storage_corrupts: {69}}
# These hosts cannot reach the servers on this machine, so that their runs are written to a folder.
ON_TWO_HOSTS: dict[InjectedFailure, set[int]] = {
    cable_pulled: {HANG},
    node_stopped: {PREEMPTED, HANG},
    node_killed: {KILLED, HANG},
    node_loses_a_worker: {70, PEER_FAILED, HANG},
}
EXPECTED = ON_ONE_MACHINE | ON_A_SERVER | ON_TWO_HOSTS
