"""Starts actors, and checks the invariants of what they publish."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mnrl_job.runs.publish import MARKER
from mnrl_job.runs.publish_lease import FOLDER as LEASES
from mnrl_job.storage.base import PARTIAL
from mnrl_job.storage.manifest import MANIFEST
from tests.chaos.places import Place
from tests.program import ROOT, Ended, clean_environment

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(2**32))
# The minimum size of a part is 5 MiB in S3, and a part is half of this.
PIECE = 10 << 20
LARGE = 12 << 20
SIZES = {"model/model.safetensors": LARGE, "model/config.json": 700, "model/README.md": 3000, "audit.json": 400}
METRICS = "metrics.json"
EXIT_SECONDS = 180
# How much of a failure's log a message shows.
SHOWN_CHARACTERS = 2000

Sums = dict[str, str]


@dataclass(frozen=True)
class EndedActor(Ended):
    """The result of an actor, which prints the steps that it starts to stdout."""

    @property
    def output_lines(self) -> list[str]:
        return self.stdout.splitlines()

    @property
    def killed(self) -> bool:
        return self.code < 0

    @property
    def phase(self) -> str:
        """The last step that it started."""
        notes = ("steps", "signalled", "frozen", "failed")
        started = [line for line in self.output_lines if not line.startswith(notes)]
        return started[-1] if started else "start"

    @property
    def steps(self) -> tuple[int, int]:
        """The number of its steps, and of the writes under its lease."""
        _, steps, writes = self.output_lines[-1].split()
        return int(steps), int(writes)

    def __str__(self) -> str:
        return f"exit {self.code} after {self.output_lines}\n{self.stderr[-SHOWN_CHARACTERS:]}"


@dataclass(frozen=True)
class Baseline:
    """Duration, steps and writes of an actor that is not killed."""

    seconds: float
    steps: int
    writes: int


def start(place: Place, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start an actor, which waits until `go` is called."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.actor", *arguments],
        cwd=ROOT,
        env=clean_environment(CHAOS_PIECE=str(PIECE), **place.environment, **environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if process.stdout and process.stdout.readline() != "ready\n":
        raise AssertionError(f"the actor did not start: {process.communicate()[1]}")
    return process


def go(process: subprocess.Popen[str]) -> None:
    if process.stdin:
        process.stdin.write("go\n")
        process.stdin.flush()


def end(process: subprocess.Popen[str]) -> EndedActor:
    stdout, stderr = process.communicate(timeout=EXIT_SECONDS)
    return EndedActor(process.returncode, stdout, stderr)


def undisturbed(place: Place, *arguments: str) -> EndedActor:
    process = start(place, *arguments)
    go(process)
    return end(process)


def measure_baseline(place: Place, *arguments: str) -> Baseline:
    process = start(place, *arguments)
    started = time.monotonic()
    go(process)
    result = end(process)
    assert result.code == 0, result
    return Baseline(time.monotonic() - started, *result.steps)


def measure_publishing(place: Place, folder: Path, settings: str, rng: random.Random) -> Baseline:
    staging = stage(folder, settings, rng)
    baseline = measure_baseline(place, "publish", str(staging), place.uri("baseline"), settings)
    place.remove("baseline")
    shutil.rmtree(staging)
    return baseline


def stage(folder: Path, settings: str, rng: random.Random) -> Path:
    """The staging folder of a new attempt, with random files, one of them named after the settings."""
    staging = folder / f"{rng.getrandbits(64):016x}"
    for name, size in (SIZES | {f"rankings/{settings}.jsonl": 50_000}).items():
        path = staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))
    return staging


def sums_of(folder: Path) -> Sums:
    """The SHA-256 of each file by its path in the folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in files}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def published_attempt(place: Place, run: str, attempts: Mapping[str, Sums]) -> str | None:
    """The attempt that is published completely; None without `_SUCCESS`. Fails if it is incomplete.

    An attempt that was killed after `_SUCCESS` may leave its lease and a temporary file.
    """
    names = {name for name in place.names(run) if not name.startswith((LEASES, PARTIAL))}
    if MARKER not in names:
        return None
    assert MANIFEST in names, f"{MARKER} without {MANIFEST} among {sorted(names)}"
    written = place.read(run, MANIFEST)
    assert json.loads(place.read(run, MARKER)) == {"manifest_sha256": sha256(written)}
    manifest = json.loads(written)
    attempt = str(manifest["inputs"]["attempt"])
    expected = {MARKER, MANIFEST, *manifest["files"]}
    assert names == expected, f"{attempt}: {sorted(names - expected)} extra, {sorted(expected - names)} missing"
    contents = {name: place.read(run, name) for name in manifest["files"]}
    facts = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in contents.items()}
    damaged = [name for name in facts if facts[name] != manifest["files"][name]]
    assert not damaged, f"{attempt}: {damaged} differ from the manifest"
    assert json.loads(contents.pop(METRICS)) == {"attempt": attempt}
    sums = {name: sha256(data) for name, data in contents.items()}
    assert sums == attempts[attempt], f"{attempt}: files of another attempt"
    return attempt


def assert_nothing_is_left(place: Place, run: str, attempts: Mapping[str, Sums], attempt: str) -> None:
    """Only the files of the attempt that published exist: no lease, no temporary file, no upload."""
    names, expected = place.names(run), {*attempts[attempt], METRICS, MANIFEST, MARKER}
    assert names == expected, f"{sorted(names - expected)} left"
    assert place.uploads() == []


@contextmanager
def with_actor_logs(ends: Sequence[EndedActor]) -> Iterator[None]:
    """Add the result of each actor to an exception."""
    try:
        yield
    except BaseException as error:
        for result in ends:
            error.add_note(str(result))
        error.add_note(f"reproduce with CHAOS_SEED={SEED}")
        raise


def tell(title: str, tally: Counter[str]) -> None:
    """Print a tally; `-s` shows it, and so does a failure."""
    print(f"\n{title} (seed {SEED}): " + ", ".join(f"{what} {count}" for what, count in sorted(tally.items())))  # noqa: T201
