r"""Large data: time, memory and disk of `mnrl-job prepare`, and how soon a run that uses the result takes a step.

    python benchmarks/scale.py --data DEBIAN --base-model BASE_MODEL --rows 1000000 3000000 --work FOLDER \
        --output benchmarks/results/scale.json

DEBIAN is a folder with train.jsonl.gz. Its pairs are repeated with words exchanged at random, 3 % of the positives
copied from other rows, until there are ROWS of them, about 440 bytes each; --words makes them shorter. The tokenizer
is that of BASE_MODEL (`scripts/base-model .venv/bin`); the model that takes the first steps is a tiny one, since what
is timed is the way to the first step. FOLDER should be on a disk. Memory is the largest sum of the anonymous memory of
all processes, looked at once a second.
"""

import argparse
import gzip
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from made_up import SHAPES, untrained
from transformers import AutoTokenizer

MIB = 2**20
EXCHANGED_WORDS = 0.25
COPIED_POSITIVES = 0.03
ROWS_PER_GROUP = 100_000
STEPS = 3
# All but the first two are of no interest here, and take time.
SETTINGS = {
    "MNRL_BATCH_SIZE": "64",
    "MNRL_LEARNING_RATE": "2e-5",
    "MNRL_HOLDOUT_RATIO": "0",
    "MNRL_GENERAL_GUARD": "off",
    "MNRL_WEIGHT_INTERPOLATION": "off",
    "MNRL_LOG_FORMAT": "text",
}


def batches_of_pairs(data: Path, rows: int, most_words: int | None) -> Iterator[pa.Table]:
    """Tables of anchors and positives, as many rows as the data has in each, with the first words of each text."""
    with gzip.open(data / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        base = [json.loads(line) for line in lines]
    columns = {name: [row[name].split(" ")[:most_words] for row in base] for name in ("anchor", "positive")}
    for number, start in enumerate(range(0, rows, len(base))):
        rng = np.random.default_rng(number)
        texts = {name: exchanged(words, rng) for name, words in columns.items()}
        copied = np.flatnonzero(rng.random(len(base)) < COPIED_POSITIVES)
        for row, source in zip(copied.tolist(), rng.integers(0, len(base), len(copied)).tolist(), strict=True):
            texts["positive"][row] = texts["positive"][source]
        yield pa.table(texts).slice(0, rows - start)


def exchanged(texts: list[list[str]], rng: np.random.Generator) -> list[str]:
    """The texts with some words taken from others."""
    words = np.array([word for text in texts for word in text], dtype=object)
    chosen = rng.random(len(words)) < EXCHANGED_WORDS
    words[chosen] = words[rng.integers(0, len(words), int(chosen.sum()))]
    parts = np.split(words, np.cumsum([len(text) for text in texts])[:-1])
    return [" ".join(part) or "text" for part in parts]


def write(path: Path, data: Path, rows: int, most_words: int | None) -> None:
    """Write the pairs as JSON Lines or Parquet, by the name's ending."""
    if path.suffix == ".parquet":
        schema = pa.schema([("anchor", pa.string()), ("positive", pa.string())])
        with pq.ParquetWriter(path, schema) as writer:
            for table in batches_of_pairs(data, rows, most_words):
                writer.write_table(table, ROWS_PER_GROUP)
        return
    with path.open("w", encoding="utf-8") as file:
        for table in batches_of_pairs(data, rows, most_words):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())


class Measured:
    """A command that runs. In each phase: the most memory of all its processes together, and the most disk."""

    def __init__(self, folder: Path, command: str, environment: dict[str, str]) -> None:
        entry = str(Path(__file__).parents[1] / "entrypoint.py")
        self.log = folder / f"{command}.log"
        self.scratch = Path(environment["MNRL_WORK_DIR"])
        (self.scratch / "progress.json").unlink(missing_ok=True)  # of the run before
        self.started = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, entry, command], cwd=folder, env=os.environ | environment, stderr=log, stdout=log
            )
        self.peak_memory: dict[str, int] = {}
        self.peak_disk: dict[str, int] = {}
        self.first_step: float | None = None
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def wait(self) -> float:
        """Wait until it has ended. Returns the seconds it took."""
        code = self.process.wait()
        seconds = time.monotonic() - self.started
        self._watcher.join()
        if code:
            raise SystemExit(f"{self.log}: exit {code}\n{self.log.read_text()[-2000:]}")
        return seconds

    def _watch(self) -> None:
        ticks = 0
        while self.process.poll() is None:
            progress = self._progress()
            if self.first_step is None and progress.get("step"):
                self.first_step = time.monotonic() - self.started
            if ticks % 10 == 0:
                self._look(progress.get("phase", "start"))
            ticks += 1
            time.sleep(0.1)

    def _look(self, phase: str) -> None:
        with suppress(psutil.Error):
            supervisor = psutil.Process(self.process.pid)
            memory = sum(map(anonymous_bytes, [supervisor, *supervisor.children(recursive=True)]))
            self.peak_memory[phase] = max(self.peak_memory.get(phase, 0), memory)
        self.peak_disk[phase] = max(self.peak_disk.get(phase, 0), size_of(self.scratch))

    def _progress(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((self.scratch / "progress.json").read_text())
            return found
        return {}


def anonymous_bytes(process: psutil.Process) -> int:
    """What a cgroup counts: pages that forks share are divided among them; those of mapped files do not count."""
    with suppress(OSError):
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
    return 0


def size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def measure(path: Path, rows: int, model: Path, work: Path) -> dict[str, Any]:
    """Prepare a file, then start two runs that use the result; everything they write is removed."""
    for name in ("out", "scratch"):
        shutil.rmtree(work / name, ignore_errors=True)
    settings = SETTINGS | {
        "MNRL_TRAIN_DATA": str(path),
        "MNRL_BASE_MODEL": str(model),
        "MNRL_OUTPUT": str(work / "out"),
        "MNRL_WORK_DIR": str(work / "scratch"),
    }
    prepare = Measured(work, "prepare", settings)
    seconds = prepare.wait()
    (data_set,) = (work / "out" / "prepared").iterdir()
    phases = json.loads((data_set / "manifest.json").read_text())["seconds"]
    first_steps = []
    for _ in range(2):
        train = Measured(work, "train", settings | {"MNRL_MAX_STEPS": str(STEPS)})
        train.wait()
        first_steps.append(train.first_step)
    return {
        "format": path.suffix[1:],
        "rows": rows,
        "input_bytes": path.stat().st_size,
        "seconds": round(seconds, 1),
        "seconds_per_million": round(seconds / rows * 1e6, 1),
        "phases": {name: round(value, 1) for name, value in phases.items()},
        "peak_mib": {phase: memory // MIB for phase, memory in prepare.peak_memory.items()},
        "peak_scratch_bytes": prepare.peak_disk,
        "published_bytes": size_of(data_set),
        "token_bytes": size_of(data_set / "tokens"),
        "seconds_to_first_step": [round(value, 1) for value in first_steps if value is not None],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--format", nargs="+", default=["jsonl", "parquet"], choices=["jsonl", "parquet"])
    parser.add_argument("--words", type=int, help="at most so many in a text; all unless given")
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    model = untrained(SHAPES["tiny"], AutoTokenizer.from_pretrained(given.base_model), given.work / "tiny")
    machine = {"cpus": len(os.sched_getaffinity(0)), "python": platform.python_version(), "machine": platform.machine()}
    results = json.loads(given.output.read_text())["results"] if given.output.exists() else []
    for rows in given.rows:
        for ending in given.format:
            path = given.work / f"{rows}-{given.words or 'all'}-words.{ending}"
            if not path.exists():
                write(path, given.data, rows, given.words)
            results.append(measure(path, rows, model, given.work))
            sys.stderr.write(json.dumps(results[-1]) + "\n")
            given.output.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
