"""Rows of the tables of the page: settings, lineage, speed, training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mnrl_job.config.settings import Settings, as_text, env_name
from mnrl_job.report.assumptions import assumptions
from mnrl_job.report.page.formatting import count, percent, plain
from mnrl_job.system.quantities import duration, file_size

Rows = tuple[tuple[str, str], ...]

PHASE_NAMES = {
    "fetch": "fetching the inputs",
    "prepare": "reading and preparing",
    "evaluate_before": "evaluating before",
    "train": "training",
    "evaluate_after": "evaluating after",
    "verify": "verifying the saved model",
}


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A setting and its value in this run."""

    name: str
    value: str
    changed: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """A phase of the run and its duration; `width` is its percentage of the longest."""

    name: str
    time: str
    width: float


def setting_rows(settings: Settings) -> tuple[SettingRow, ...]:
    """Every setting with its value; `changed` if it is not the default."""
    return tuple(
        SettingRow(
            name=env_name(name),
            value=", ".join(map(str, value)) if isinstance(value, tuple) else as_text(value),
            changed=value != field.default,
            meaning=str(field.description),
        )
        for name, field in Settings.model_fields.items()
        for value in (getattr(settings, name),)
    )


def phase_rows(metrics: Mapping[str, Any]) -> tuple[PhaseRow, ...]:
    durations = metrics["performance"]["seconds"]
    names = PHASE_NAMES if metrics["training"] else PHASE_NAMES | {"evaluate_before": "evaluating"}
    by_name = {name: durations[key] for key, name in names.items() if key in durations}
    longest = max(by_name.values(), default=0.0) or 1.0
    return tuple(PhaseRow(name, duration(value), round(100 * value / longest, 1)) for name, value in by_name.items())


def speed_rows(metrics: Mapping[str, Any]) -> Rows:
    performance = metrics["performance"]
    rows: dict[str, tuple[str, Callable[[float], str]]] = {
        "pairs_per_second": ("pairs per second", lambda value: f"{value:,.1f}"),
        "tokens_per_second": ("tokens per second", count),
        "padding_ratio": ("tokens with padding per token", lambda value: plain(value, 2)),
        "data_wait_share": ("time waiting for batches", percent),
        "peak_memory_bytes": ("peak memory of rank 0", file_size),
    }
    return tuple(
        (name, format_value(performance[key]))
        for key, (name, format_value) in rows.items()
        if performance.get(key) is not None
    )


def training_rows(metrics: Mapping[str, Any]) -> Rows:
    training, parameters = metrics["training"], metrics["model"]["parameters"]
    if training is None:
        return ()
    rows = [
        ("loss", f"{training['loss']}, final value {plain(training['final_loss'], 4)}"),
        (
            "length",
            f"{count(training['steps'])} steps of {count(training['global_batch_size'])} pairs, "
            f"{training['epochs']} epoch(s)",
        ),
        ("negatives per query", count(training["negatives_per_anchor"])),
        ("learning rate", f"{training['learning_rate']:g}"),
        ("precision", training["precision"]),
    ]
    if training["masked_per_anchor"]:
        rows.append(("masked negatives per query", f"{training['masked_per_anchor']:g}"))
    if training["trainable_parameters"] != parameters:
        rows.append(("trained parameters", f"{count(training['trainable_parameters'])} of {count(parameters)}"))
    if training["lora_rank"] is not None:
        rows.append(("LoRA", f"adapter of rank {training['lora_rank']}, merged into the model, also in adapter/"))
    rows += [
        (f"hard negatives mined at step {count(mining['step'])}", _mining(mining))
        for mining in training["hard_negative_mining"]
    ]
    if training["weight_interpolation"] < 1:
        rows.append(("weight interpolation", _interpolation(training["weight_interpolation"])))
    if training["best_step"] is not None:
        rows.append(("final weights", f"those of step {count(training['best_step'])}, which scored best"))
    return tuple(rows)


def _interpolation(alpha: float) -> str:
    return f"{alpha:g} of the trained weights, {1 - alpha:g} of the base model's"


def _mining(mining: Mapping[str, Any]) -> str:
    similarity, positive = (plain(mining[name], 3) for name in ("similarity", "positive_similarity"))
    return f"{percent(mining['found'])} found; similarity to the query {similarity}, of the positive {positive}"


def lineage_rows(metrics: Mapping[str, Any], settings_sha256: str) -> Rows:
    model, environment = metrics["model"], metrics["environment"]
    max_length = model["max_seq_length"]
    length = f"texts truncated at {max_length} tokens" if max_length else "texts not truncated"
    rows = {
        "base model": model["base"],
        "revision": model["revision"],
        "adapter of": model["adapter_of"],
        "assumptions about the base model": "; ".join(assumptions(model["assumed"])),
        "embedding": f"{count(model['embedding_dimension'])} dimensions, {length}",
        "query prompt": model["prompts"]["query"],
        "document prompt": model["prompts"]["document"],
        "devices": ", ".join(environment["devices"]),
        "platform": f"Python {environment['python']} on {environment['platform']}",
        "packages": ", ".join(f"{name} {version}" for name, version in environment["packages"].items()),
        "git commit": environment["git_sha"],
        "image": environment["image"],
        "settings (SHA-256)": settings_sha256,
        "training rows (digest)": metrics["training"] and metrics["training"]["rows_digest"],
        "reloaded model": _verified(metrics["verification"]),
    }
    return tuple((name, str(value)) for name, value in rows.items() if value)


def input_hashes(metrics: Mapping[str, Any], inputs: Mapping[str, str]) -> Rows:
    train = metrics["data"]["train"]
    uris = {f"train/{source['name']}": source["uri"] for source in train["sources"]} if train else {}
    return tuple((f"{name} ({uris[name]})" if name in uris else name, digest) for name, digest in inputs.items())


def _verified(verification: dict[str, Any] | None) -> str:
    if verification is None:
        return ""
    difference, tolerance = verification["max_difference"], verification["tolerance"]
    return f"embeddings equal those in memory (largest difference {difference:.1e}, tolerance {tolerance:.1e})"
