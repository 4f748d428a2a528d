"""Two publishers of one run at the same time, also one that is frozen and thawed: one publishes, never a mixture.

`CHAOS_RACES` says how many races the long test runs on each store, `CHAOS_FREEZES` how many of them with a frozen
publisher, `CHAOS_SEED` repeats a failure.

A frozen publisher stops wherever it is. On a store that ignores conditional writes it stops between two requests:
amid one it would, as documented, finish that one when it thaws.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.attempts import (
    SEED,
    Baseline,
    EndedActor,
    Sums,
    assert_nothing_is_left,
    end,
    go,
    measure_publishing,
    published_attempt,
    stage,
    start,
    sums_of,
    tell,
    with_actor_logs,
)
from tests.chaos.places import MOST_PLACES, Place

RACES = int(os.environ.get("CHAOS_RACES") or 50)
FEW = 2
FREEZES = int(os.environ.get("CHAOS_FREEZES") or 10)
# Within the time a claim takes, or some time during the other's work.
LONGEST_HEAD_STARTS_SECONDS = 0.05, 1.0
LEASE = 4.0
# From the lease on until well after the other has published.
LONGEST_FROST_SECONDS = 2 * LEASE + 1
FREEZES_BETWEEN_REQUESTS = {"rclone"}
ALREADY, OTHER_SETTINGS, LOST = 0, 64, 69


@dataclass(frozen=True)
class Rivals:
    """Two attempts at one run, each with its settings."""

    run: str
    stagings: tuple[Path, Path]
    settings: tuple[str, str]

    @property
    def attempts(self) -> dict[str, Sums]:
        """The files they will publish, as long as they have not begun."""
        return {staging.name: sums_of(staging) for staging in self.stagings}

    def start(self, place: Place, index: int, **environment: str) -> subprocess.Popen[str]:
        arguments = "publish", str(self.stagings[index]), place.uri(self.run), self.settings[index]
        return start(place, *arguments, **environment)


def rivals(folder: Path, rng: random.Random, same: bool) -> Rivals:
    settings = ("abc", "abc" if same else "def")
    stagings = stage(folder, settings[0], rng), stage(folder, settings[1], rng)
    return Rivals(f"run-{rng.getrandbits(64):016x}", stagings, settings)


def race(place: Place, folder: Path, rng: random.Random, same: bool) -> str:
    """Let two run, one a little earlier; how it went."""
    two = rivals(folder, rng, same)
    attempts = two.attempts
    processes = [two.start(place, index) for index in (0, 1)]
    go(processes[0])
    time.sleep(rng.uniform(0, rng.choice(LONGEST_HEAD_STARTS_SECONDS)))
    go(processes[1])
    ends = [end(process) for process in processes]
    with with_actor_logs(ends):
        winner = check_winner(place, two, attempts, ends)
        assert ends[1 - winner].code == (ALREADY if same else OTHER_SETTINGS)
    clean_up(place, two)
    return f"{'same' if same else 'other'} settings, {('first', 'second')[winner]} won"


def check_winner(place: Place, two: Rivals, attempts: dict[str, Sums], ends: list[EndedActor]) -> int:
    """Which one published: just one did, says so, and the run is all its own."""
    published = published_attempt(place, two.run, attempts)
    assert published
    winner = [staging.name for staging in two.stagings].index(published)
    assert [ended.phase == "published" for ended in ends] == [winner == 0, winner == 1]
    assert ends[winner].code == 0
    assert_nothing_is_left(place, two.run, attempts, published)
    return winner


def clean_up(place: Place, two: Rivals) -> None:
    place.remove(two.run)
    for staging in two.stagings:
        shutil.rmtree(staging)


def freeze(place: Place, folder: Path, rng: random.Random, same: bool, baseline: Baseline) -> str:
    """Freeze the first amid its work for longer than its lease, let the second run, thaw the first; how it went."""
    two = rivals(folder, rng, same)
    attempts = two.attempts
    first = start_frozen(place, two, rng, baseline)
    second = two.start(place, 1, CHAOS_LEASE=str(LEASE))
    go(second)
    time.sleep(rng.uniform(LEASE, LONGEST_FROST_SECONDS))
    thawed = "after" if second.poll() is not None else "before"
    first.send_signal(signal.SIGCONT)
    ends = [end(first), end(second)]
    with with_actor_logs(ends):
        winner = check_winner(place, two, attempts, ends)
        other = ALREADY if same else OTHER_SETTINGS
        assert ends[1 - winner].code in ((other, LOST) if winner == 1 else (other,))
    clean_up(place, two)
    return f"thawed {thawed} the other's end: {('frozen', 'other')[winner]} won, frozen ended {ends[0].code}"


def start_frozen(place: Place, two: Rivals, rng: random.Random, baseline: Baseline) -> subprocess.Popen[str]:
    """The first of two, under way and then frozen: before some step, or after some time."""
    lease = {"CHAOS_LEASE": str(LEASE)}
    if place.kind in FREEZES_BETWEEN_REQUESTS:
        at = f"SIGSTOP write {rng.randint(1, baseline.writes)}"
        process = two.start(place, 0, CHAOS_AT=at, CHAOS_THREADS="1", **lease)
        go(process)
    elif rng.random() < 0.5:
        process = two.start(place, 0, CHAOS_AT=f"SIGSTOP io {rng.randint(1, baseline.steps)}", **lease)
        go(process)
    else:
        process = two.start(place, 0, **lease)
        go(process)
        time.sleep(rng.uniform(0, baseline.seconds))
        process.send_signal(signal.SIGSTOP)
    with suppress(ChildProcessError):  # it had ended before
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return process


def race_repeatedly(place: Place, folder: Path, times: int) -> None:
    rng = random.Random(f"{SEED} race {place.kind}")
    started = time.monotonic()
    outcomes = Counter(race(place, folder, rng, same=number % 2 == 0) for number in range(times))
    tell(f"races {place.kind} in {time.monotonic() - started:.0f} s", outcomes)


def freeze_repeatedly(place: Place, folder: Path, times: int) -> None:
    rng = random.Random(f"{SEED} freeze {place.kind}")
    started = time.monotonic()
    baseline = measure_publishing(place, folder, "abc", rng)
    outcomes = Counter(freeze(place, folder, rng, number % 2 == 0, baseline) for number in range(times))
    tell(f"freezes {place.kind} in {time.monotonic() - started:.0f} s", outcomes)


@MOST_PLACES
def test_of_two_publishers_exactly_one_publishes(place, tmp_path):
    race_repeatedly(place, tmp_path, FEW)


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_publisher_suspended_for_longer_than_its_lease_does_no_harm(place, tmp_path):
    freeze_repeatedly(place, tmp_path, 1)


@pytest.mark.chaos
@pytest.mark.timeout(3000)
def test_of_two_publishers_exactly_one_publishes_every_time(place, tmp_path):
    race_repeatedly(place, tmp_path, RACES)


@pytest.mark.chaos
@pytest.mark.timeout(3000)
def test_a_publisher_suspended_at_any_moment_does_no_harm(place, tmp_path):
    freeze_repeatedly(place, tmp_path, FREEZES)
