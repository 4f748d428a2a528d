"""Build `metrics.json`."""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mnrl_job.config.settings import GIT_SHA, IMAGE
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs
from mnrl_job.evaluation.gate import GateResult
from mnrl_job.evaluation.primary_eval import PERFECT_SCORE, judged_by
from mnrl_job.evaluation.significance import Comparison
from mnrl_job.launch.fingerprint import PACKAGES
from mnrl_job.report.metrics_schema import (
    Environment,
    EvalData,
    EvaluationFacts,
    Metrics,
    Performance,
    PrimaryMetric,
    TrainData,
    TrainingFacts,
    TrainingSettings,
    VerificationFacts,
)
from mnrl_job.runs.attempt_history import AttemptRecord
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
    attempts: list[AttemptRecord]
    pairs: Pairs | None = None
    verification: Verification | None = None


def build_metrics(run: Run) -> Metrics:
    """The content of `metrics.json`."""
    model = run.result.model
    return {
        "schema_version": 1,
        "status": "succeeded" if run.gate.passed else "gate",
        "run": {
            "id": run.id,
            "started_at": timestamps.format_utc(run.started_at),
            "finished_at": timestamps.now(),
            "attempts": run.attempts,
        },
        "model": {
            "base": split_revision(run.base_model)[0],
            "revision": model.revision,
            "parameters": model.parameters,
            "embedding_dimension": model.embedding_dimension,
            "max_seq_length": model.max_seq_length,
            "prompts": {"query": model.query_prompt, "document": model.document_prompt},
            "adapter_of": model.adapter_of,
            "assumed": {
                "pooling": model.assumed.pooling,
                "padding_token": model.assumed.padding_token,
                "unused_prompts": list(model.assumed.unused_prompts),
            },
        },
        "data": {"train": _train_data(run.pairs, run.result.training), "eval": _eval_data(run.eval_sets)},
        "training": _training(run.training_settings, run.result.training),
        "evaluation": {comparison.name: _evaluation(comparison) for comparison in run.comparisons},
        "primary_metric": _primary_metric(run.primary, run.comparisons),
        "gate": {"passed": run.gate.passed, "rule": run.gate.rule, "failed": list(run.gate.failed)},
        "verification": _verification(run.verification),
        "performance": _performance(run),
        "environment": _environment(run.result.devices),
    }


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


def _train_data(pairs: Pairs | None, training: Training | None) -> TrainData | None:
    if pairs is None or training is None:
        return None
    return {
        "rows_read": pairs.rows_read,
        "rows_used": training.rows_used,
        "filtered": pairs.filtered,
        "rejected": pairs.rejected,
        "sources": [
            {"name": source.name, "uri": source.uri, "rows": source.rows, "sha256": source.sha256}
            for source in pairs.sources
        ],
    }


def _eval_data(eval_sets: tuple[EvalSet, ...]) -> dict[str, EvalData]:
    return {
        eval_set.name: {
            "queries": eval_set.queries,
            "documents": eval_set.documents,
            "unjudged_queries": eval_set.unjudged_queries,
            "own_documents": eval_set.own_documents,
            "rejected": eval_set.rejected,
            "sha256": eval_set.sha256,
        }
        for eval_set in eval_sets
    }


def _training(settings: TrainingSettings, training: Training | None) -> TrainingFacts | None:
    if training is None:
        return None
    return {
        **settings,
        "steps": training.steps,
        "rows_digest": training.rows_digest,
        "negatives_per_anchor": training.negatives_per_anchor,
        "masked_per_anchor": round(training.masked_per_anchor, 4),
        "precision": training.precision,
        "activation_recompute": training.activation_recompute,
        "final_loss": training.final_loss,
        "trainable_parameters": training.trainable_parameters,
        "scores": [{"step": score.step, "value": score.value} for score in training.scores],
        "best_step": training.best_step,
        "hard_negative_mining": list(training.hard_negative_mining),
        "collapse": training.collapse,
    }


def _evaluation(comparison: Comparison) -> EvaluationFacts:
    return {
        "before": comparison.before,
        "after": comparison.after,
        "delta": comparison.delta,
        "confidence_interval": comparison.confidence_interval,
        "p_value": comparison.p_value,
        "wins_losses": comparison.wins_losses,
        "bm25": comparison.bm25,
        "dimensions": {
            name: {"before": metrics["before"], "after": metrics["after"]}
            for name, metrics in comparison.dimensions.items()
        },
    }


def _verification(verification: Verification | None) -> VerificationFacts | None:
    if verification is None:
        return None
    return {
        "reloaded": verification.reloaded,
        "embedding_dimension": verification.embedding_dimension,
        "max_difference": verification.max_difference,
        "tolerance": verification.tolerance,
        "shape": verification.shape,
    }


def _performance(run: Run) -> Performance:
    training, seconds = run.result.training, dict(run.seconds)
    seconds["evaluate_before"] = sum(evaluation.seconds for evaluation in run.result.before)
    performance: Performance = {
        "pairs_per_second": None,
        "tokens_per_second": None,
        "padding_ratio": None,
        "data_wait_share": None,
        "peak_memory_bytes": run.result.peak_memory_bytes,
        "seconds": {},
    }
    if training is not None:
        performance["pairs_per_second"] = round(
            training.steps * run.training_settings["global_batch_size"] / training.seconds, 2
        )
        performance["data_wait_share"] = round(training.seconds_waited / training.seconds, 4)
        if training.tokens:
            performance["tokens_per_second"] = round(training.tokens / training.seconds, 1)
            performance["padding_ratio"] = round(training.padded_tokens / training.tokens, 3)
        seconds |= {
            "train": training.seconds,
            "evaluate_after": sum(evaluation.seconds for evaluation in run.result.after),
        }
    performance["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
    return performance


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
