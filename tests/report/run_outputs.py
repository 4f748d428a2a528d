"""The outputs of a run from which its page is rendered, of any size, with malicious texts."""

import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalData, EvalSet, write_evalset
from mnrl_job.data.pairs import Pairs, SourceRecord
from mnrl_job.data.tables import read_table
from mnrl_job.embedding.model_facts import ModelFacts
from mnrl_job.evaluation.gate import GateResult
from mnrl_job.evaluation.results import Evaluation, QueryResult
from mnrl_job.evaluation.significance import Comparison, compare
from mnrl_job.evaluation.weight_selection import ALPHAS, InterpolationPoint
from mnrl_job.pipeline.finalize import training_settings
from mnrl_job.report.html_report import render_report
from mnrl_job.report.metrics import Run, build_metrics
from mnrl_job.report.rankings import write_rankings
from mnrl_job.training.results import StepScore, Training
from mnrl_job.worker.results import Verification, WorkerResult
from tests.examples import EVIL

METRICS = ("accuracy@1", "mrr@10", "ndcg@10", "recall@10", "ndcg@100")
TITLE = "How to reset"
MODEL = ModelFacts(22_713_216, 384, 256, "abc123", "", EVIL)


@dataclass
class RunOutputs:
    """The staging folder of a run and the other inputs of the page."""

    staging: Path
    settings: Settings
    eval_sets: list[EvalSet]
    metrics: dict[str, Any]

    def page(self) -> str:
        inputs = {"train/faq": "a" * 64, "eval/faq": "b" * 64, EVIL: "c" * 64}
        return render_report(self.staging, self.metrics, self.settings, self.eval_sets, "d" * 64, inputs)


def make_run_outputs(
    folder: Path,
    queries: int = 12,
    names: tuple[str, ...] = ("faq",),
    trained: bool = True,
    base_model: str = "sentence-transformers/all-MiniLM-L6-v2@abc123",
) -> RunOutputs:
    """Every third query wins, every fifth of the others loses; one of each kind has malicious texts."""
    settings = Settings(batch_size=8, learning_rate=1e-3, anchor_column=EVIL)
    staging = folder / "staging"
    staging.mkdir(parents=True)
    eval_sets = [make_eval_set(folder / name, name, queries) for name in names]
    comparisons = []
    for eval_set in eval_sets:
        before = [query_result(number, rank_before(number)) for number in range(queries)]
        after = [query_result(number, rank_after(number)) for number in range(queries)] if trained else []
        texts = {row["id"]: row["text"] for row in read_table(eval_set.folder / "queries.arrow").to_pylist()}
        write_rankings(staging / "rankings" / f"{eval_set.name}.jsonl", texts, before, after)
        means = {metric: sum(result.metrics[metric] for result in before) / queries for metric in METRICS}
        comparisons.append(compare(eval_set.name, before, after, 1) if trained else Comparison(eval_set.name, means))
    run = Run(
        id="r-1",
        started_at=datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
        primary=settings.primary_eval,
        training_settings=training_settings(settings),
        base_model=base_model,
        result=worker_result(names, trained),
        eval_sets=tuple(eval_sets),
        comparisons=tuple(replace(comparison, bm25=dict.fromkeys(METRICS, 0.1234)) for comparison in comparisons),
        gate=GateResult(passed=True, rule="none"),
        seconds={"fetch": 0.4, "prepare": 1.25, **({"verify": 3.0} if trained else {})},
        attempts=[attempt()],
        pairs=pairs(folder) if trained else None,
        verification=Verification(True, 384, 1e-7, 1e-5, (1, 384)) if trained else None,
    )
    if trained:
        (staging / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log()))
        (staging / "audit.json").write_text(json.dumps(audit()))
    return RunOutputs(staging, settings, eval_sets, dict(build_metrics(run)))


def rank_before(number: int) -> int:
    return 1 + number % 7


def rank_after(number: int) -> int:
    if number % 3 == 0:
        return 1
    return 9 if number % 5 == 0 else rank_before(number)


def make_eval_set(folder: Path, name: str, queries: int) -> EvalSet:
    texts = {f"q{number}": f"query {number} about topic {number % 97}" for number in range(queries)}
    corpus = {f"d{number}": f"document {number} says: {'all there is to say ' * 20}" for number in range(queries)}
    titles = {"d6": len(TITLE)}
    corpus["d6"] = f"{TITLE} the text"
    for number in (3, 4, 5):  # one wins, one ties, one loses
        texts[f"q{number}"] = f"{EVIL} {number}"
        corpus[f"d{number}"] = f"{EVIL} document {number}"
    qrels = {(f"q{number}", f"d{number}"): 1 for number in range(queries)}
    return write_evalset(name, f"s3://bucket/{name}", folder, EvalData(texts, corpus, qrels, titles=titles))


def query_result(number: int, rank: int) -> QueryResult:
    dcg = 1 / math.log2(rank + 1)
    values = (float(rank == 1), 1 / rank, dcg, 1.0, dcg)
    first = number if rank == 1 else number + 1 if rank % 2 and number < 5 else 0
    return QueryResult(f"q{number}", rank, 0.9 / rank, dict(zip(METRICS, values, strict=True)), ((f"d{first}", 0.9),))


def worker_result(names: tuple[str, ...], trained: bool) -> WorkerResult:
    scored = tuple(Evaluation(name, {}, Path("unused"), 2.0) for name in names)
    if not trained:
        return WorkerResult(MODEL, scored, ("1 x CPU (2 threads)",), 900_000_000)
    training = Training(
        steps=60,
        learning_rate=1e-3,
        rows_used=480,
        rows_digest="0123456789abcdef",
        final_loss=0.1234,
        negatives_per_anchor=7,
        masked_per_anchor=0.0,
        precision="bf16",
        seconds=75.5,
        seconds_waited=0.5,
        tokens=100_000,
        padded_tokens=110_000,
        activation_recompute=False,
        trainable_parameters=22_713_216,
        scores=(StepScore(20, 0.5), StepScore(40, 0.6), StepScore(60, 0.55)),
        best_step=40,
        weight_interpolation=0.5,
        interpolation_points=tuple(
            InterpolationPoint(alpha, 0.5 + alpha / 10, 0.56 - alpha / 20, alpha >= 0.5) for alpha in ALPHAS
        ),
    )
    return WorkerResult(MODEL, scored, ("1 x NVIDIA H100",), 5_000_000_000, scored, training)


def attempt() -> dict[str, Any]:
    began, ended = "2026-01-31T09:30:00Z", "2026-01-31T09:33:00Z"
    facts = {"started_at": began, "ended_at": ended, "outcome": "succeeded", "message": EVIL, "seconds": 180.0}
    return facts | {"steps_done": 60, "steps_lost": 0}


def pairs(folder: Path) -> Pairs:
    source = SourceRecord("faq", f"s3://bucket/{EVIL}", 1, 500, 480, "a" * 64, {}, ())
    return Pairs(folder / "pairs", ("anchor", "positive"), 480, 500, {"empty": 20}, (), (source,))


def log(steps: int = 60) -> list[dict[str, Any]]:
    """The log of a successful training."""
    return [
        {
            "step": step,
            "total_steps": steps,
            "loss": 2.1 * math.exp(-step / 20) + 0.1 + 0.05 * math.sin(step),
            "learning_rate": 1e-3 * min(step / 6, (steps - step) / 54),
            "grad_norm": None if step == 1 else 3 + math.cos(step),
            "pairs_per_second": 50.0,
            "seconds": round(1.2 * step + 0.3 * math.sin(step), 3),
            "memory_bytes": 4_000_000_000 + 10_000_000 * step,
            "rows_digest": "0123456789abcdef",
            "in_batch_accuracy": 1 - 0.6 * math.exp(-step / 15),
            "chance": 0.125,
            "positive_score": 0.55 + 0.2 * (1 - math.exp(-step / 15)),
            "hardest_negative_score": 0.5 - 0.2 * (1 - math.exp(-step / 15)),
            "anisotropy": 0.2 - 0.1 * step / steps,
            "collapse": "" if step > 4 else None,
        }
        for step in range(1, steps + 1)
    ]


def audit() -> dict[str, Any]:
    example = [{"anchor": EVIL, "positive": f"{EVIL} answer"}]
    rejected = [{"where": f"{EVIL}.tsv:9", "reason": "unknown id", "detail": "there is no document 'd9'"}]
    return {
        "rows_filtered": 7,
        "rows_held_out": 5,
        "negatives_held_out": 0,
        "rejected": {"empty": 20, EVIL: 1},
        "rejected_rows": [{"where": f"{EVIL}.jsonl:7", "reason": "empty", "detail": EVIL}],
        "leakage": {"policy": "remove", "rows": 4, "by_eval_set": {"faq": 4}, "examples": example},
        "duplicates": {"repeated_rows": 3, "anchors_with_several_positives": 4, "positives_with_several_anchors": 0},
        "skew": {"most_rows_of_one": 12, "top": [{"rows": 12, "text": EVIL}, {"rows": 1, "text": "single"}]},
        "near_duplicates": {"groups": 2, "texts": 5, "largest": 3, "examples": [[EVIL, f"{EVIL}!"]]},
        "contradictions": {"negatives": 1, "examples": example},
        "oddities": {"html": {"rows": 2, "examples": example}, "mojibake": {"rows": 0, "examples": []}},
        "batches": {
            "batch_size": 8,
            "batches_an_epoch": {"faq": 60},
            "largest_batch_without_duplicates": 30,
            "false_negatives_in_a_batch": {"at_random": 1.25, "as_planned": 0.0},
        },
        "eval": {
            "faq": {"rejected": {"unknown id": 3}, "rejected_rows": rejected, "own_documents": 8},
            "other": {"rejected": {}, "rejected_rows": [], "own_documents": 0},
        },
        "token_lengths": {
            "rows": 480,
            "max_seq_length": 256,
            "columns": {"positive": {"p50": 40.0, "p90": 90.0, "p99": 200.0, "p100": 700.0, "truncated": 0.004}},
        },
    }


def set_change(run: Any, delta: float, interval: tuple[float, float], p_value: float) -> None:
    for key, value in (("delta", delta), ("confidence_interval", interval), ("p_value", p_value)):
        run.metrics["evaluation"]["faq"][key]["ndcg@10"] = value
