"""The run in numbers: `metrics.json`."""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import GIT_SHA, IMAGE, Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs
from mnrl_job.evaluation.gate import Verdict
from mnrl_job.evaluation.primary_eval import PERFECT_SCORE, judged_by
from mnrl_job.evaluation.significance import Comparison
from mnrl_job.launch.fingerprint import PACKAGES
from mnrl_job.report.metrics_schema import (
    Environment,
    EvalData,
    EvaluationFacts,
    ExportFacts,
    Metrics,
    Performance,
    PrimaryMetric,
    TrainData,
    TrainingFacts,
    VerificationFacts,
)
from mnrl_job.runs.attempt_history import AttemptRecord
from mnrl_job.storage import split_revision
from mnrl_job.system import timestamps
from mnrl_job.training.results import Training
from mnrl_job.worker.results import Export, Verification, WorkerResult


@dataclass(frozen=True, slots=True)
class Run:
    """Everything the report is made of."""

    id: str
    started_at: datetime
    settings: Settings
    base_model: str
    result: WorkerResult
    eval_sets: tuple[EvalSet, ...]
    comparisons: tuple[Comparison, ...]
    verdict: Verdict
    seconds: dict[str, float]
    attempts: list[AttemptRecord]
    pairs: Pairs | None = None
    batching: BatchPlan | None = None
    verification: Verification | None = None
    exports: tuple[Export, ...] = ()


def metrics(run: Run) -> Metrics:
    """The content of `metrics.json`."""
    facts = run.result.model
    return {
        "schema_version": 1,
        "status": "succeeded" if run.verdict.passed else "gate",
        "run": {
            "id": run.id,
            "started_at": timestamps.told(run.started_at),
            "finished_at": timestamps.now(),
            "attempts": run.attempts,
        },
        "model": {
            "base": split_revision(run.base_model)[0],
            "revision": facts.revision,
            "parameters": facts.parameters,
            "embedding_dimension": facts.embedding_dimension,
            "max_seq_length": facts.max_seq_length,
            "prompts": {"query": facts.query_prompt, "document": facts.document_prompt},
            "adapter_of": facts.adapter_of,
            "assumed": {
                "pooling": facts.assumed.pooling,
                "padding_token": facts.assumed.padding_token,
                "unused_prompts": list(facts.assumed.unused_prompts),
            },
        },
        "data": {"train": _train_data(run.pairs, run.result.training), "eval": _eval_data(run.eval_sets)},
        "training": _training(run.settings, run.result.training, run.batching),
        "evaluation": {one.name: _evaluation(one) for one in run.comparisons},
        "primary_metric": primary(run.settings, run.comparisons),
        "gate": {"passed": run.verdict.passed, "rule": run.verdict.rule, "failed": list(run.verdict.failed)},
        "verification": _verification(run.verification),
        "exports": {one.format: _export(one) for one in run.exports},
        "performance": _performance(run),
        "environment": environment(run.result.devices),
    }


def primary(settings: Settings, comparisons: tuple[Comparison, ...]) -> PrimaryMetric | None:
    """The metric the run is judged by."""
    name, key = settings.primary_eval
    one = judged_by(name, comparisons)
    if one is None:
        return None
    full_name = f"{one.name}.{key}"
    return {
        "name": full_name,
        "before": one.before[key],
        "after": one.after.get(key),
        "delta": one.delta.get(key),
        "saturated": one.before[key] >= PERFECT_SCORE,
    }


def environment(devices: tuple[str, ...]) -> Environment:
    """Where it ran."""
    return {
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": list(devices),
        "image": os.environ.get(IMAGE) or None,
        "git_sha": os.environ.get(GIT_SHA) or _git_sha(),
    }


def _train_data(read: Pairs | None, training: Training | None) -> TrainData | None:
    if read is None or training is None:
        return None
    return {
        "rows_read": read.rows_read,
        "rows_used": training.rows_used,
        "filtered": read.filtered,
        "rejected": read.rejected,
        "sources": [{"name": one.name, "uri": one.uri, "rows": one.rows, "sha256": one.sha256} for one in read.sources],
    }


def _eval_data(eval_sets: tuple[EvalSet, ...]) -> dict[str, EvalData]:
    return {
        one.name: {
            "queries": one.queries,
            "documents": one.documents,
            "unjudged_queries": one.unjudged_queries,
            "own_documents": one.own_documents,
            "rejected": one.rejected,
            "sha256": one.sha256,
        }
        for one in eval_sets
    }


def _training(settings: Settings, training: Training | None, batching: BatchPlan | None) -> TrainingFacts | None:
    if training is None or batching is None:
        return None
    return {
        "loss": settings.loss,
        "guide_model": settings.guide_model or None,
        "scale": settings.scale,
        "matryoshka_dims": list(settings.matryoshka_dims),
        "hardness": str(settings.hardness) if settings.hardness else None,
        "epochs": settings.epochs,
        "steps": training.steps,
        "global_batch_size": settings.batch_size,
        "batching": batching.mode,
        "rows_digest": training.rows_digest,
        "negatives_per_anchor": training.negatives_per_anchor,
        "masked_per_anchor": round(training.masked_per_anchor, 4),
        "learning_rate": settings.learning_rate,
        "precision": training.precision,
        "activation_recompute": training.activation_recompute,
        "final_loss": training.final_loss,
        "lora_rank": settings.lora_rank,
        "trainable_parameters": training.trainable_parameters,
        "scores": [{"step": one.step, "value": one.value} for one in training.scores],
        "best_step": training.best_step,
        "hard_negatives": settings.num_hard_negatives,
        "hard_negative_mining": list(training.hard_negative_mining),
        "collapse": training.collapse,
    }


def _evaluation(one: Comparison) -> EvaluationFacts:
    return {
        "before": one.before,
        "after": one.after,
        "delta": one.delta,
        "confidence_interval": one.confidence_interval,
        "p_value": one.p_value,
        "wins_losses": one.wins_losses,
        "bm25": one.bm25,
        "dimensions": {
            name: {"before": shorter["before"], "after": shorter["after"]} for name, shorter in one.dimensions.items()
        },
    }


def _verification(found: Verification | None) -> VerificationFacts | None:
    if found is None:
        return None
    return {
        "reloaded": found.reloaded,
        "embedding_dimension": found.embedding_dimension,
        "max_difference": found.max_difference,
        "tolerance": found.tolerance,
        "shape": found.shape,
    }


def _export(one: Export) -> ExportFacts:
    return {
        "backend": one.backend,
        "files": one.files,
        "bytes": sum(one.files.values()),
        "metrics": {scored.name: scored.metrics for scored in one.evaluations},
        "max_difference": one.max_difference,
        "tolerance": one.tolerance,
        "min_cosine": one.min_cosine,
        "seconds_per_text": one.seconds_per_text,
        "pytorch_seconds_per_text": one.pytorch_seconds_per_text,
        "packages": one.packages,
    }


def _performance(run: Run) -> Performance:
    training, seconds = run.result.training, dict(run.seconds)
    seconds["evaluate_before"] = sum(one.seconds for one in run.result.before)
    facts: Performance = {
        "pairs_per_second": None,
        "tokens_per_second": None,
        "padding_ratio": None,
        "data_wait_share": None,
        "peak_memory_bytes": run.result.peak_memory_bytes,
        "seconds": {},
    }
    if training is not None:
        facts["pairs_per_second"] = round(training.steps * run.settings.batch_size / training.seconds, 2)
        facts["data_wait_share"] = round(training.seconds_waited / training.seconds, 4)
        if training.tokens:
            facts["tokens_per_second"] = round(training.tokens / training.seconds, 1)
            facts["padding_ratio"] = round(training.padded_tokens / training.tokens, 3)
        seconds |= {"train": training.seconds, "evaluate_after": sum(one.seconds for one in run.result.after)}
    facts["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
    return facts


def _git_sha() -> str | None:
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None
