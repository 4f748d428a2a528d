"""Runs with random failures: each finishes, with the weights of an undisturbed run.

`CHAOS_ROUNDS` is the number of runs, `CHAOS_SEED` reproduces a failure. One to three failures are injected into each
run, each in another attempt, then an undisturbed attempt finishes it.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from tests import hosts
from tests.chaos.attempts import SEED, sha256, tell
from tests.chaos.chaos_run import ChaosRun, assert_leftovers_are_removed, wait_until_no_worker_is_left
from tests.chaos.injected_failures import EXPECTED, ON_A_SERVER, ON_ONE_MACHINE, ON_TWO_HOSTS, InjectedFailure
from tests.chaos.places import Place, opened
from tests.scenes import Scene, make_scene

ROUNDS = int(os.environ.get("CHAOS_ROUNDS") or 50)
MAX_FAILURES = 3
KINDS = ("moto", "rclone", "folder")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Scene:
    return make_scene(tmp_path_factory.mktemp("campaign"), tiny_model)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Place]]:
    openings = [contextmanager(opened)(kind, tmp_path_factory) for kind in KINDS]
    with openings[0] as first, openings[1] as second, openings[2] as third:
        yield [first, second, third]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[hosts.Host, ...]]:
    """Two hosts, if this machine supports network namespaces."""
    with nullcontext(()) if hosts.why_not() else hosts.several_hosts(2) as pair:
        yield pair


@pytest.mark.chaos
def test_a_run_with_failures_ends_with_the_weights_of_an_undisturbed_run(
    scene: Scene, places: list[Place], pair: tuple[hosts.Host, ...]
) -> None:
    rng, started = random.Random(f"{SEED} campaign"), time.monotonic()
    expected = {processes: weights_undisturbed(scene, places[-1], processes) for processes in ("1", "2")}
    ends, hits = Counter[str](), Counter[str]()
    for number in range(ROUNDS):
        place, processes = rng.choice(places), rng.choice(["1", "2"])
        run = ChaosRun(scene, place, f"round-{number}", settings_of(place, processes), rng, pair)
        try:
            for failure in rng.choices(possible(run, processes), k=rng.randint(1, MAX_FAILURES)):
                codes = failure(run)
                assert set(codes) <= {0, *EXPECTED[failure]}, run.history[-1]
                wait_until_no_worker_is_left(scene)
                ends[f"{failure.__name__.replace('_', ' ')} -> {' and '.join(map(str, codes))}"] += 1
                if 0 in codes:  # it is published
                    break
            assert run.wait("undisturbed", run.start()) == [0]
            assert weights(place, run.name) == expected[processes], (
                "the weights differ from those of an undisturbed run"
            )
            assert_leftovers_are_removed(place, run.name, [run.work])
        except BaseException as error:
            error.add_note(f"round {number} ({place.kind}, {processes} processes): {run.history}, seed {SEED}")
            error.add_note(scene.log(run.name)[-3000:])
            raise
        hits += run.hits
        print(f"{number + 1}/{ROUNDS} ({place.kind}, {processes}): {'; '.join(run.history)}", flush=True)  # noqa: T201
    tell(f"{ROUNDS} runs disturbed in {time.monotonic() - started:.0f} s", ends)
    tell("at", hits)


def weights_undisturbed(scene: Scene, place: Place, processes: str) -> str:
    alone = ChaosRun(scene, place, f"alone-{processes}", settings_of(place, processes), random.Random())
    assert alone.wait("alone", alone.start()) == [0], scene.log(alone.name)[-3000:]
    return weights(place, alone.name)


def weights(place: Place, run: str) -> str:
    return sha256(place.read(run, "model/model.safetensors"))


def settings_of(place: Place, processes: str) -> dict[str, str]:
    output = place.uri("").rstrip("/")
    return {"MNRL_OUTPUT": output, "MNRL_NUM_PROCESSES": processes, **place.environment}


def possible(run: ChaosRun, processes: str) -> list[InjectedFailure]:
    """The failures that can happen to a run, by its storage and number of workers."""
    if run.place.server:
        return [*ON_ONE_MACHINE, *ON_A_SERVER]
    # Few runs can use two hosts, so that those get a higher weight.
    return [*ON_ONE_MACHINE, *(list(ON_TWO_HOSTS) * 4 if run.pair and processes == "2" else ())]
