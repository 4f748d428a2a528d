"""Build `metrics.json`."""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mnrl_job.config.settings import GIT_SHA, IMAGE
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs
from mnrl_job.evaluation.gate import GateResult
from mnrl_job.evaluation.primary_eval import PERFECT_SCORE, judged_by
from mnrl_job.evaluation.significance import Comparison
from mnrl_job.launch.fingerprint import PACKAGES
from mnrl_job.report.metrics_schema import Environment, Metrics, PrimaryMetric, TrainingSettings
from mnrl_job.storage import split_revision
from mnrl_job.system import timestamps
from mnrl_job.training.results import Training
from mnrl_job.worker.results import Verification, WorkerResult


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that is reported of a run.

    `primary` is the name of the primary eval set (empty for the first) and the metric.
    """

    id: str
    started_at: datetime
    primary: tuple[str, str]
    training_settings: TrainingSettings
    base_model: str
    result: WorkerResult
    eval_sets: tuple[EvalSet, ...]
    comparisons: tuple[Comparison, ...]
    gate: GateResult
    seconds: dict[str, float]
    attempts: list[dict[str, Any]]
    pairs: Pairs | None = None
    verification: Verification | None = None


def build_metrics(run: Run) -> Metrics:
    """The content of `metrics.json`. Fields of the results that the schema does not have are left out."""
    model, training, verification = run.result.model, run.result.training, run.verification
    metrics: dict[str, Any] = {
        "schema_version": 1,
        "status": "succeeded" if run.gate.passed else "gate",
        "run": {
            "id": run.id,
            "started_at": timestamps.format_utc(run.started_at),
            "finished_at": timestamps.now(),
            "attempts": run.attempts,
        },
        "model": {
            **asdict(model),
            "base": split_revision(run.base_model)[0],
            "prompts": {"query": model.query_prompt, "document": model.document_prompt},
        },
        "data": {
            "train": asdict(run.pairs) | {"rows_used": training.rows_used, "filtered": run.pairs.filtered}
            if run.pairs and training
            else None,
            "eval": {eval_set.name: asdict(eval_set) for eval_set in run.eval_sets},
        },
        "training": _training(run.training_settings, training),
        "evaluation": {comparison.name: asdict(comparison) for comparison in run.comparisons},
        "primary_metric": _primary_metric(run.primary, run.comparisons),
        "gate": asdict(run.gate),
        "verification": asdict(verification) if verification else None,
        "performance": _performance(run),
        "environment": _environment(run.result.devices),
    }
    return TypeAdapter(Metrics).validate_python(metrics)


def _primary_metric(primary: tuple[str, str], comparisons: tuple[Comparison, ...]) -> PrimaryMetric | None:
    name, metric = primary
    comparison = judged_by(name, comparisons)
    if comparison is None:
        return None
    return {
        "name": f"{comparison.name}.{metric}",
        "before": comparison.before[metric],
        "after": comparison.after.get(metric),
        "delta": comparison.delta.get(metric),
        "saturated": comparison.before[metric] >= PERFECT_SCORE,
    }


def _environment(devices: tuple[str, ...]) -> Environment:
    return {
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": list(devices),
        "image": os.environ.get(IMAGE) or None,
        "git_sha": os.environ.get(GIT_SHA) or _git_sha(),
    }


def _training(settings: TrainingSettings, training: Training | None) -> dict[str, Any] | None:
    if training is None:
        return None
    return {**settings, **asdict(training), "masked_per_anchor": round(training.masked_per_anchor, 4)}


def _performance(run: Run) -> dict[str, Any]:
    training, seconds = run.result.training, dict(run.seconds)
    seconds["evaluate_before"] = sum(evaluation.seconds for evaluation in run.result.before)
    ratios: dict[str, float | None] = dict.fromkeys(
        ("pairs_per_second", "tokens_per_second", "padding_ratio", "data_wait_share")
    )
    if training is not None:
        pairs = training.steps * run.training_settings["global_batch_size"]
        ratios["pairs_per_second"] = round(pairs / training.seconds, 2)
        ratios["data_wait_share"] = round(training.seconds_waited / training.seconds, 4)
        if training.tokens:
            ratios["tokens_per_second"] = round(training.tokens / training.seconds, 1)
            ratios["padding_ratio"] = round(training.padded_tokens / training.tokens, 3)
        seconds["train"] = training.seconds
        seconds["evaluate_after"] = sum(evaluation.seconds for evaluation in run.result.after)
    rounded = {name: round(value, 3) for name, value in seconds.items()}
    return {**ratios, "peak_memory_bytes": run.result.peak_memory_bytes, "seconds": rounded}


def _git_sha() -> str | None:
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
