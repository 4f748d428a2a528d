"""Killed at any moment: a marker never stands on less than a whole run, and starting again always finishes.

`CHAOS_KILLS` says how many kills the long tests share, `CHAOS_SEED` repeats a failure.
"""

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig

from tests.chaos.attempts import (
    PIECE,
    SEED,
    Baseline,
    EndedActor,
    Sums,
    assert_nothing_is_left,
    end,
    go,
    measure_baseline,
    measure_publishing,
    published_attempt,
    stage,
    start,
    sums_of,
    tell,
    undisturbed,
    with_actor_logs,
)
from tests.chaos.places import MOST_PLACES, Place
from tests.servers.s3 import BUCKET

ENOUGH = int(os.environ.get("CHAOS_KILLS") or 250) // 5
FEW = 2
SETTINGS = "abc"
MOST_KILLS_IN_A_ROW = 3
PARTIAL = ".partial"

Kill = Callable[..., EndedActor]


def killed_somewhere(rng: random.Random, baseline: Baseline, place: Place, *arguments: str) -> EndedActor:
    """Start an actor and kill it: after a random time, or (where a moment is too short to hit) before a random step."""
    if rng.random() < 0.5:
        return killed_before(rng.randint(1, baseline.steps), place, *arguments)
    process = start(place, *arguments)
    go(process)
    time.sleep(rng.uniform(0, baseline.seconds))
    process.kill()
    return end(process)


def killed_before(step: int, place: Place, *arguments: str) -> EndedActor:
    process = start(place, *arguments, CHAOS_AT=f"SIGKILL io {step}")
    go(process)
    return end(process)


def kill_repeatedly(kills: int, rng: random.Random, story: Callable[[int], list[EndedActor]], title: str) -> None:
    """Play a story, which starts some actors to be killed and one to finish, until there were enough kills."""
    phases = Counter[str]()
    started = time.monotonic()
    while phases.total() < kills:
        ends = story(rng.randint(1, MOST_KILLS_IN_A_ROW))
        phases.update(ended.phase for ended in ends if ended.killed)
    tell(f"{title}: {phases.total()} kills in {time.monotonic() - started:.0f} s", phases)


def kill_publishers(place: Place, folder: Path, kills: int) -> None:
    rng = random.Random(f"{SEED} publish {place.kind}")
    baseline = measure_publishing(place, folder, SETTINGS, rng)

    def story(victims: int) -> list[EndedActor]:
        return publish_story(place, folder, rng, [partial(killed_somewhere, rng, baseline)] * victims)

    kill_repeatedly(kills, rng, story, f"publish {place.kind}")


def kill_before_each_step(place: Place, folder: Path) -> None:
    """One kill before every step, and one more attempt."""
    rng = random.Random(f"{SEED} steps {place.kind}")
    baseline = measure_publishing(place, folder, SETTINGS, rng)
    phases = Counter[str]()
    for step in range(1, baseline.steps + 1):
        ends = publish_story(place, folder, rng, [partial(killed_before, step)])
        phases.update(ended.phase for ended in ends if ended.killed)
    tell(f"steps {place.kind}: {phases.total()} kills", phases)


def publish_story(place: Place, folder: Path, rng: random.Random, kills: Sequence[Kill]) -> list[EndedActor]:
    """Attempts at one run, all killed but the last; the output is checked after each."""
    run = f"run-{rng.getrandbits(64):016x}"
    attempts: dict[str, Sums] = {}
    ends: list[EndedActor] = []
    done: str | None = None
    with with_actor_logs(ends):
        for attempt in (*kills, undisturbed):
            staging = stage(folder, SETTINGS, rng)
            attempts[staging.name] = sums_of(staging)
            ends.append(attempt(place, "publish", str(staging), place.uri(run), SETTINGS))
            assert ends[-1].killed or ends[-1].code == 0
            before, done = done, published_attempt(place, run, attempts)
            assert before in (None, done), f"{done} took the place of {before}"
            shutil.rmtree(staging)
        assert done
        assert_nothing_is_left(place, run, attempts, done)
    place.remove(run)
    return ends


def kill_fetchers(bucket: Place, folder: Path, kills: int) -> None:
    rng = random.Random(f"{SEED} fetch {bucket.kind}")
    source = stage(folder, SETTINGS, rng)
    put(bucket, source)
    sums, uri = sums_of(source), bucket.uri("source")
    baseline = measure_baseline(bucket, "fetch", uri, str(folder / "baseline"))

    def story(victims: int) -> list[EndedActor]:
        return fetch_story(bucket, uri, folder / "fetched", sums, [partial(killed_somewhere, rng, baseline)] * victims)

    kill_repeatedly(kills, rng, story, f"fetch {bucket.kind}")


def put(bucket: Place, source: Path) -> None:
    """Upload a source as users do: large objects in parts, so that their ETag is not an MD5."""
    if bucket.server:
        client, parts = bucket.server.client(), TransferConfig(multipart_threshold=PIECE, multipart_chunksize=PIECE)
        for path in [path for path in source.rglob("*") if path.is_file()]:
            client.upload_file(str(path), BUCKET, f"source/{path.relative_to(source).as_posix()}", Config=parts)


def fetch_story(bucket: Place, uri: str, folder: Path, sums: Sums, kills: Sequence[Kill]) -> list[EndedActor]:
    """Attempts to fetch into one folder, all killed but the last. A complete file is never fetched again."""
    ends: list[EndedActor] = []
    complete: dict[str, int] = {}
    with with_actor_logs(ends):
        for attempt in (*kills, undisturbed):
            ends.append(attempt(bucket, "fetch", uri, str(folder)))
            assert ends[-1].killed or ends[-1].code == 0
            copies = next(folder.iterdir(), folder) if folder.exists() else folder
            fetched = {name: total for name, total in sums_of(copies).items() if not name.startswith(PARTIAL)}
            assert fetched.items() <= sums.items()
            inodes = {name: (copies / name).stat().st_ino for name in fetched}
            assert complete.items() <= inodes.items(), "a complete file was fetched again"
            complete = inodes
        assert fetched == sums
        assert {path.name for path in (copies / PARTIAL).iterdir()} == {"lock"}
    shutil.rmtree(folder)
    return ends


@MOST_PLACES
def test_a_publisher_killed_a_few_times_never_marks_an_incomplete_run(place, tmp_path):
    kill_publishers(place, tmp_path, FEW)


@pytest.mark.parametrize("bucket", ["moto", pytest.param("rclone", marks=pytest.mark.slow)], indirect=True)
def test_a_fetch_killed_a_few_times_resumes(bucket, tmp_path):
    kill_fetchers(bucket, tmp_path, FEW)


@pytest.mark.chaos
@pytest.mark.timeout(3000)
def test_a_publisher_killed_at_any_moment_never_marks_an_incomplete_run(place, tmp_path):
    kill_publishers(place, tmp_path, ENOUGH)


@pytest.mark.chaos
@pytest.mark.timeout(3000)
def test_a_publisher_killed_before_any_step_is_finished_by_the_next_attempt(place, tmp_path):
    kill_before_each_step(place, tmp_path)


@pytest.mark.chaos
@pytest.mark.timeout(3000)
def test_a_fetch_killed_at_any_moment_resumes(bucket, tmp_path):
    kill_fetchers(bucket, tmp_path, ENOUGH)
