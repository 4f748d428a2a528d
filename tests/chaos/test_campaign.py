"""Whole runs, disturbed at random: each finishes, with the weights of a run that was left alone.

`CHAOS_ROUNDS` says how many runs, `CHAOS_SEED` repeats a failure. Each run is disturbed one to three times, each
time in an attempt of its own, and then left alone.
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
from tests.chaos.disturbances import (
    EXPECTED,
    ON_A_SERVER,
    ON_ONE_MACHINE,
    ON_TWO_HOSTS,
    Disturbance,
    Round,
    assert_nothing_is_left,
    wait_for_none_left,
)
from tests.chaos.places import Place, opened
from tests.scenes import Scene, make_scene

ROUNDS = int(os.environ.get("CHAOS_ROUNDS") or 50)
MOST_FAULTS = 3
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
    """Two hosts, where there can be some."""
    with nullcontext(()) if hosts.why_not() else hosts.several_hosts(2) as found:
        yield found


@pytest.mark.chaos
def test_a_run_that_is_disturbed_ends_like_one_that_was_left_alone(
    scene: Scene, places: list[Place], pair: tuple[hosts.Host, ...]
) -> None:
    rng, began = random.Random(f"{SEED} campaign"), time.monotonic()
    expected = {processes: weights_undisturbed(scene, places[-1], processes) for processes in ("1", "2")}
    ends, struck = Counter[str](), Counter[str]()
    for number in range(ROUNDS):
        place, processes = rng.choice(places), rng.choice(["1", "2"])
        one = Round(scene, place, f"round-{number}", settings_of(place, processes), rng, pair)
        try:
            for disturb in rng.choices(possible(one, processes), k=rng.randint(1, MOST_FAULTS)):
                codes = disturb(one)
                assert set(codes) <= {0, *EXPECTED[disturb]}, one.told[-1]
                wait_for_none_left(scene)
                ends[f"{disturb.__name__.replace('_', ' ')} -> {' and '.join(map(str, codes))}"] += 1
                if 0 in codes:  # it is published, and nothing can happen to it any more
                    break
            assert one.end("left alone", one.start()) == [0]
            assert weights(place, one.name) == expected[processes], "other weights than undisturbed"
            assert_nothing_is_left(place, one.name, [one.work])
        except BaseException as error:
            error.add_note(f"round {number} ({place.kind}, {processes} processes): {one.told}, seed {SEED}")
            error.add_note(scene.log(one.name)[-3000:])
            raise
        struck += one.struck
        print(f"{number + 1}/{ROUNDS} ({place.kind}, {processes}): {'; '.join(one.told)}", flush=True)  # noqa: T201
    tell(f"{ROUNDS} runs disturbed in {time.monotonic() - began:.0f} s", ends)
    tell("at", struck)


def weights_undisturbed(scene: Scene, place: Place, processes: str) -> str:
    alone = Round(scene, place, f"alone-{processes}", settings_of(place, processes), random.Random())
    assert alone.end("alone", alone.start()) == [0], scene.log(alone.name)[-3000:]
    return weights(place, alone.name)


def weights(place: Place, run: str) -> str:
    return sha256(place.read(run, "model/model.safetensors"))


def settings_of(place: Place, processes: str) -> dict[str, str]:
    output = place.uri("").rstrip("/")
    return {"MNRL_OUTPUT": output, "MNRL_NUM_PROCESSES": processes, **place.environment}


def possible(one: Round, processes: str) -> list[Disturbance]:
    """What can happen to a run at its place, on its number of workers."""
    if one.place.server:
        return [*ON_ONE_MACHINE, *ON_A_SERVER]
    # Few runs can have hosts of their own; those that can mostly do.
    return [*ON_ONE_MACHINE, *(list(ON_TWO_HOSTS) * 4 if one.pair and processes == "2" else ())]
