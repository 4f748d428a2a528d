"""Attempts of actors: how they are started and end, and what must always hold of what they leave."""

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
# S3 takes no part below 5 MiB, and a part is half a piece.
PIECE = 10 << 20
LARGE = 12 << 20
SIZES = {"model/model.safetensors": LARGE, "model/config.json": 700, "model/README.md": 3000, "audit.json": 400}
METRICS = "metrics.json"
PATIENCE_SECONDS = 180
# How much of a failure's log a message shows.
SHOWN_CHARACTERS = 2000

Sums = dict[str, str]


@dataclass(frozen=True)
class EndedActor(Ended):
    """How an actor ended: it says the steps it begins on stdout."""

    @property
    def said(self) -> list[str]:
        return self.stdout.splitlines()

    @property
    def killed(self) -> bool:
        return self.code < 0

    @property
    def phase(self) -> str:
        """The last step it began."""
        told = [line for line in self.said if not line.startswith(("steps", "signalled", "frozen", "failed"))]
        return told[-1] if told else "start"

    @property
    def steps(self) -> tuple[int, int]:
        """How many steps it took, and how many writes its lease permitted."""
        _, steps, writes = self.said[-1].split()
        return int(steps), int(writes)

    def __str__(self) -> str:
        return f"exit {self.code} after {self.said}\n{self.stderr[-SHOWN_CHARACTERS:]}"


@dataclass(frozen=True)
class Undisturbed:
    """How long an actor takes when nobody kills it."""

    seconds: float
    steps: int
    writes: int


def start(place: Place, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """An actor that is ready to begin and waits for the word."""
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
        raise AssertionError(f"the actor did not come up: {process.communicate()[1]}")
    return process


def go(process: subprocess.Popen[str]) -> None:
    if process.stdin:
        process.stdin.write("go\n")
        process.stdin.flush()


def end(process: subprocess.Popen[str]) -> EndedActor:
    stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    return EndedActor(process.returncode, stdout, stderr)


def undisturbed(place: Place, *arguments: str) -> EndedActor:
    process = start(place, *arguments)
    go(process)
    return end(process)


def rehearse(place: Place, *arguments: str) -> Undisturbed:
    process = start(place, *arguments)
    began = time.monotonic()
    go(process)
    ended = end(process)
    assert ended.code == 0, ended
    return Undisturbed(time.monotonic() - began, *ended.steps)


def rehearse_publishing(place: Place, folder: Path, settings: str, rng: random.Random) -> Undisturbed:
    staging = stage(folder, settings, rng)
    usual = rehearse(place, "publish", str(staging), place.uri("rehearsal"), settings)
    place.remove("rehearsal")
    shutil.rmtree(staging)
    return usual


def stage(folder: Path, settings: str, rng: random.Random) -> Path:
    """The staging folder of a new attempt: no two have a file in common, and settings give a file of their own name."""
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
    """Which attempt stands there complete; None where there is no `_SUCCESS`. Fails where that stands on less.

    One that was killed right after it may leave its lease and temporary file, for the next to remove.
    """
    names = {name for name in place.names(run) if not name.startswith((LEASES, PARTIAL))}
    if MARKER not in names:
        return None
    assert MANIFEST in names, f"{MARKER} without {MANIFEST} among {sorted(names)}"
    written = place.read(run, MANIFEST)
    assert json.loads(place.read(run, MARKER)) == {"manifest_sha256": sha256(written)}
    manifest = json.loads(written)
    attempt = str(manifest["inputs"]["attempt"])
    told = {MARKER, MANIFEST, *manifest["files"]}
    assert names == told, f"{attempt}: {sorted(names - told)} too many, {sorted(told - names)} missing"
    found = {name: place.read(run, name) for name in manifest["files"]}
    facts = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in found.items()}
    wrong = [name for name in facts if facts[name] != manifest["files"][name]]
    assert not wrong, f"{attempt}: {wrong} not as the manifest says"
    assert json.loads(found.pop(METRICS)) == {"attempt": attempt}
    sums = {name: sha256(data) for name, data in found.items()}
    assert sums == attempts[attempt], f"{attempt}: files of another attempt"
    return attempt


def assert_nothing_is_left(place: Place, run: str, attempts: Mapping[str, Sums], attempt: str) -> None:
    """Just the files of the attempt that published: no leases, nothing half-written."""
    names, told = place.names(run), {*attempts[attempt], METRICS, MANIFEST, MARKER}
    assert names == told, f"{sorted(names - told)} left"
    assert place.uploads() == []


@contextmanager
def explained(ends: Sequence[EndedActor]) -> Iterator[None]:
    """A failure inside tells how each actor ended."""
    try:
        yield
    except BaseException as error:
        for ended in ends:
            error.add_note(str(ended))
        error.add_note(f"repeat it with CHAOS_SEED={SEED}")
        raise


def tell(title: str, tally: Counter[str]) -> None:
    """Print a tally; `-s` shows it, and so does a failure."""
    print(f"\n{title} (seed {SEED}): " + ", ".join(f"{what} {count}" for what, count in sorted(tally.items())))  # noqa: T201
