"""How batches are planned: time, rows used and false negatives, next to the library's no-duplicates samplers.

    python benchmarks/planning.py plans --data DEBIAN --output benchmarks/results/planning.json
    python benchmarks/planning.py scale --data DEBIAN --rows 10000000 --output benchmarks/results/planning-scale.json
    python benchmarks/planning.py groups --data DEBIAN --rows 1000000 --output benchmarks/results/grouping-1m.json

`plans` lays out one epoch of several data sets for 1, 2 and 8 ranks, each planner in turn on the same machine. A false
negative is a positive of the same global batch that is of another row's group (near-duplicates are only counted where
the data has real texts). `scale` lays out one epoch of made-up groups, up to ROWS of them. `groups` makes ROWS pairs of
the length of the real ones, 30 % of them near-duplicates, and groups them. DEBIAN is a folder with train.jsonl.gz.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

from mnrl_job.batching.planning import (
    PlanConfig,
    SourceShare,
    false_negatives_at_random,
    false_negatives_in,
    plan_epochs,
)
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import write_columns
from mnrl_job.deduplication.groups import find_groups

RANKS = (1, 2, 8)
Planner = Callable[[Dataset, np.ndarray, int, int], np.ndarray]


def plans(data: Path, _: int, folder: Path) -> Iterator[dict[str, Any]]:
    for name, batch_size, texts in data_sets(data):
        pairs = write_pairs(texts, Path(tempfile.mkdtemp(dir=folder)))
        groups = find_groups(pairs, None, 0.9, pairs.path.parent / "signatures").group_ids
        dataset = Dataset.from_file(str(pairs.path))
        for ranks in RANKS:
            for planner, plan_by in PLANNERS.items():
                started = time.perf_counter()
                plan = plan_by(dataset, groups, batch_size, ranks)
                seconds = time.perf_counter() - started
                facts = {"data": name, "rows": pairs.rows, "batch": batch_size, "ranks": ranks, "planner": planner}
                used = len(np.unique(plan))
                facts |= {"seconds": round(seconds, 2), "rows_used": used, "rows_repeated": plan.size - used}
                yield facts | {"false_negatives_in_a_batch": round(false_negatives_in(groups, plan), 3)}


def data_sets(data: Path) -> Iterator[tuple[str, int, list[tuple[str, str]]]]:
    yield "64 rows, 16 positives", 8, [(f"question {i}", f"answer {i % 16}") for i in range(64)]
    rows = [row for _, row in read_rows(data / "train.jsonl.gz")]
    yield "30,000 package descriptions", 64, [(row["anchor"], row["positive"]) for row in rows]
    skewed = np.random.default_rng(0).zipf(1.3, 5_000).tolist()  # with 20,000 the library takes over five minutes
    yield "Zipf 1.3, 5,000 rows", 64, [(f"question {i}", f"answer {key}") for i, key in enumerate(skewed)]


def ours(_dataset: Dataset, groups: np.ndarray, batch_size: int, _ranks: int) -> np.ndarray:
    """The number of ranks does not matter: the plan is of global batches."""
    return planned(groups, batch_size)


def planned(groups: np.ndarray, batch_size: int) -> np.ndarray:
    """One epoch of one source."""
    return next(plan_epochs(groups, PlanConfig(batch_size, (SourceShare(len(groups)),), 42)))


def library(hashed: bool) -> Planner:
    """Each rank is dealt every n-th of the sampler's batches, as accelerate does; together they are a global batch."""

    def plan(dataset: Dataset, _: np.ndarray, batch_size: int, ranks: int) -> np.ndarray:
        batches = list(
            NoDuplicatesBatchSampler(
                dataset,
                batch_size // ranks,
                drop_last=True,
                valid_label_columns=[],
                generator=torch.Generator(),
                seed=42,
                precompute_hashes=hashed,
            )
        )
        steps = len(batches) // ranks
        return np.array(batches[: steps * ranks], dtype=np.int64).reshape(steps, batch_size)

    return plan


PLANNERS: dict[str, Planner] = {
    "mnrl-job": ours,
    "no_duplicates": library(hashed=False),
    "no_duplicates_hashed": library(hashed=True),
}


def scale(_: Path, count: int, __: Path) -> Iterator[dict[str, Any]]:
    for rows in (100_000, 1_000_000, count):
        apart = np.arange(rows)
        rng = np.random.default_rng(0)
        for name, anchors, positives in (
            ("all texts differ", apart, rng.permutation(rows)),
            ("three rows an anchor and a positive", *rng.integers(0, rows // 3, (2, rows))),
            ("positives as Zipf 1.3", apart, zipf(rows, rng)),
            ("anchors and positives as Zipf 1.3", zipf(rows, rng), zipf(rows, rng)),
        ):
            groups = np.column_stack([anchors, anchors.max() + 1 + positives])
            started = time.perf_counter()
            plan = planned(groups, 64)
            seconds = time.perf_counter() - started
            yield {
                "data": name,
                "rows": rows,
                "seconds": round(seconds, 2),
                "rows_used": plan.size,
                "false_negatives_in_a_batch": round(false_negatives_in(groups, plan), 3),
                "at_random": round(false_negatives_at_random(groups, 64), 3),
            }


def zipf(rows: int, rng: np.random.Generator) -> np.ndarray:
    return np.unique(rng.zipf(1.3, rows), return_inverse=True)[1]


def groups(data: Path, count: int, folder: Path) -> Iterator[dict[str, Any]]:
    write_made_up(data, count, folder / "pairs.arrow")
    pairs = Pairs(folder / "pairs.arrow", ("anchor", "positive"), count, count, {}, (), ())
    before = peak()
    started = time.perf_counter()
    found = find_groups(pairs, None, 0.9, folder / "signatures")
    seconds = time.perf_counter() - started
    sizes = np.unique(found.group_ids[:, 1], return_counts=True)[1]
    yield {
        "rows": count,
        "megabytes": round(pairs.path.stat().st_size / 1e6),
        "seconds": round(seconds, 1),
        "peak_gib": round(peak() / 2**30, 2),
        "peak_gib_before": round(before / 2**30, 2),
        "peak_gib_of_a_helper": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        "groups_of_positives": len(sizes),
        "largest_group": int(sizes.max()),
    }


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_made_up(data: Path, count: int, path: Path) -> None:
    """Of each real pair drawn: 60 % with half of the words replaced, 30 % with one, 10 % as they are."""
    rows = [row for _, row in read_rows(data / "train.jsonl.gz")]
    words = [word for row in rows for word in row["positive"].split()][:200_000]
    rng = np.random.default_rng(0)
    schema = pa.schema([("anchor", pa.string()), ("positive", pa.string())])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for _ in range(0, count, 10_000):
            columns: tuple[list[str], list[str]] = ([], [])
            for index, kind in zip(rng.integers(len(rows), size=10_000), rng.random(10_000), strict=True):
                text = rows[index]["positive"].split()
                for at in rng.integers(len(text), size=len(text) // 2 if kind < 0.6 else 1 if kind < 0.9 else 0):
                    text[at] = words[rng.integers(len(words))]
                columns[0].append(f"{rows[index]['anchor']} {words[rng.integers(len(words))]}")
                columns[1].append(" ".join(text))
            writer.write_batch(pa.record_batch([pa.array(column) for column in columns], schema=schema))


def write_pairs(texts: list[tuple[str, str]], folder: Path) -> Pairs:
    path = folder / "pairs.arrow"
    write_columns(path, anchor=[anchor for anchor, _ in texts], positive=[positive for _, positive in texts])
    return Pairs(path, ("anchor", "positive"), len(texts), len(texts), {}, (), ())


PARTS: dict[str, Callable[[Path, int, Path], Iterator[dict[str, Any]]]] = {
    "plans": plans,
    "scale": scale,
    "groups": groups,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for line in PARTS[options.part](options.data, options.rows, Path(folder)):
            sys.stderr.write(json.dumps(line) + "\n")
            lines.append(line)
    how = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    options.output.write_text(json.dumps({"how": how, "runs": lines}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
