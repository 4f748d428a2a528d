"""The run in numbers: `metrics.json`."""

import importlib.metadata
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mnrl_job.records import Batching, Comparison, EvalSet, Pairs, Training, Verification, WorkerResult
from mnrl_job.runtime import dates
from mnrl_job.runtime.agreement import PACKAGES
from mnrl_job.settings import Settings

SCHEMA_VERSION = 1


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
    seconds: dict[str, float]
    attempts: list[dict[str, Any]]
    pairs: Pairs | None = None
    batching: Batching | None = None
    verification: Verification | None = None


def metrics(run: Run) -> dict[str, Any]:
    """The content of `metrics.json`, schema version 1 (docs/metrics.md)."""
    facts = run.result.model
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "succeeded",
        "run": {
            "id": run.id,
            "started_at": dates.told(run.started_at),
            "finished_at": dates.now(),
            "attempts": run.attempts,
        },
        "model": {
            "base": run.base_model.partition("@")[0],
            "revision": facts.revision,
            "parameters": facts.parameters,
            "embedding_dimension": facts.embedding_dimension,
            "max_seq_length": facts.max_seq_length,
            "prompts": {"query": facts.query_prompt, "document": facts.document_prompt},
        },
        "data": {"train": _train_data(run.pairs, run.result.training), "eval": _eval_data(run.eval_sets)},
        "training": _training(run.settings, run.result.training, run.batching),
        "evaluation": {one.name: _evaluation(one) for one in run.comparisons},
        "primary_metric": primary(run.settings.primary_metric, run.comparisons),
        "gate": {"passed": True, "rule": "none"},
        "verification": asdict(run.verification) if run.verification else None,
        "performance": _performance(run),
        "environment": environment(run.result.devices),
    }


def primary(metric: str, comparisons: tuple[Comparison, ...]) -> dict[str, Any] | None:
    """The metric the run is judged by: of the eval set it names, else of the first."""
    if not comparisons:
        return None
    name, _, key = metric.rpartition(".")
    one = next((one for one in comparisons if one.name == name), comparisons[0])
    full_name = f"{one.name}.{key}"
    return {"name": full_name, "before": one.before[key], "after": one.after.get(key), "delta": one.delta.get(key)}


def environment(devices: tuple[str, ...]) -> dict[str, Any]:
    """Where it ran."""
    return {
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": list(devices),
        "image": None,
        "git_sha": _git_sha(),
    }


def _train_data(read: Pairs | None, training: Training | None) -> dict[str, Any] | None:
    if read is None or training is None:
        return None
    return {
        "rows_read": read.rows_read,
        "rows_used": training.rows_used,
        "rejected": read.rejected,
        "sources": [{"name": one.name, "uri": one.uri, "rows": one.rows, "sha256": one.sha256} for one in read.sources],
    }


def _eval_data(eval_sets: tuple[EvalSet, ...]) -> dict[str, Any]:
    return {one.name: {"queries": one.queries, "documents": one.documents, "sha256": one.sha256} for one in eval_sets}


def _training(settings: Settings, training: Training | None, batching: Batching | None) -> dict[str, Any] | None:
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
        "recomputed": training.recomputed,
        "final_loss": training.final_loss,
        "lora_rank": settings.lora_rank,
        "trainable_parameters": training.trainable_parameters,
    }


def _evaluation(one: Comparison) -> dict[str, Any]:
    return {name: value for name, value in asdict(one).items() if name != "name"}


def _performance(run: Run) -> dict[str, Any]:
    training, seconds = run.result.training, dict(run.seconds)
    seconds["evaluate_before"] = sum(one.seconds for one in run.result.before)
    names = ("pairs_per_second", "tokens_per_second", "padding_ratio", "data_wait_share")
    rates: dict[str, Any] = dict.fromkeys(names)
    if training is not None:
        rates["pairs_per_second"] = round(training.steps * run.settings.batch_size / training.seconds, 2)
        rates["data_wait_share"] = round(training.seconds_waited / training.seconds, 4)
        if training.tokens:
            rates["tokens_per_second"] = round(training.tokens / training.seconds, 1)
            rates["padding_ratio"] = round(training.padded_tokens / training.tokens, 3)
        seconds |= {"train": training.seconds, "evaluate_after": sum(one.seconds for one in run.result.after)}
    rounded = {name: round(value, 3) for name, value in seconds.items()}
    return rates | {"peak_memory_bytes": run.result.peak_memory_bytes, "seconds": rounded}


def _git_sha() -> str | None:
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None
