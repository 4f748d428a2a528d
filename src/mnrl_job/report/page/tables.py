"""The run's facts as rows of tables: what it is, its settings, where everything comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mnrl_job.config.settings import Settings, env_name
from mnrl_job.report.assumptions import assumptions
from mnrl_job.report.page.formatting import count, plain, seconds, share, size
from mnrl_job.report.page.verdict import judged

Rows = tuple[tuple[str, str], ...]

PHASES = {
    "fetch": "fetching the inputs",
    "prepare": "reading and preparing",
    "evaluate_before": "evaluating before",
    "train": "training",
    "evaluate_after": "evaluating after",
    "verify": "verifying the saved model",
    "export": "exporting it",
}


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A setting as the run had it."""

    name: str
    value: str
    changed: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run and how long it took; `width` is its share of the longest, of 100."""

    name: str
    time: str
    width: float


def setting_rows(settings: Settings) -> tuple[SettingRow, ...]:
    """Every setting with its value; `changed` where it is not the default."""
    return tuple(
        SettingRow(
            name=env_name(name),
            value=_as_text(getattr(settings, name)),
            changed=getattr(settings, name) != field.default,
            meaning=str(field.description),
        )
        for name, field in Settings.model_fields.items()
    )


def phases(content: Mapping[str, Any]) -> tuple[Phase, ...]:
    """Where the time went."""
    spent = content["performance"]["seconds"]
    names = PHASES if content["training"] else PHASES | {"evaluate_before": "evaluating"}
    known = {name: spent[key] for key, name in names.items() if key in spent}
    longest = max(known.values(), default=0.0) or 1.0
    return tuple(Phase(name, seconds(value), round(100 * value / longest, 1)) for name, value in known.items())


def speed(content: Mapping[str, Any]) -> Rows:
    """Throughput and memory of the whole run."""
    performance = content["performance"]
    kinds: dict[str, tuple[str, Callable[[float], str]]] = {
        "pairs_per_second": ("pairs per second", lambda value: f"{value:,.1f}"),
        "tokens_per_second": ("tokens per second", count),
        "padding_ratio": ("tokens read for each real one", lambda value: plain(value, 2)),
        "data_wait_share": ("waiting for batches", share),
        "peak_memory_bytes": ("peak memory of the first worker", size),
    }
    return tuple(
        (name, told(performance[key])) for key, (name, told) in kinds.items() if performance.get(key) is not None
    )


def training_facts(content: Mapping[str, Any]) -> Rows:
    """What the training was, in a few lines."""
    one = content["training"]
    if one is None:
        return ()
    rows = [
        ("loss", f"{one['loss']}, {plain(one['final_loss'], 4)} in the end"),
        ("length", f"{count(one['steps'])} steps of {count(one['global_batch_size'])} pairs, {one['epochs']} epoch(s)"),
        ("negatives for each query", f"{count(one['negatives_per_anchor'])}, {one['masked_per_anchor']:g} left out"),
        ("batches", one["batching"]),
        ("precision", one["precision"]),
        ("trained numbers", f"{count(one['trainable_parameters'])} of {count(content['model']['parameters'])}"),
    ]
    if one["lora_rank"] is not None:
        rows.append(("LoRA", f"adapter of rank {one['lora_rank']}, merged into the model, by itself in adapter/"))
    rows += [
        (f"hard negatives, mined at step {count(mined['step'])}", _mined(mined))
        for mined in one["hard_negative_mining"]
    ]
    if one["best_step"] is not None:
        rows.append(("weights kept", f"those of step {count(one['best_step'])}, which scored best"))
    return tuple(rows)


def _mined(mining: Mapping[str, Any]) -> str:
    similarity, of_positives = (plain(mining[name], 3) for name in ("similarity", "positive_similarity"))
    return f"{share(mining['found'])} found; similarity to the query {similarity}, that of the positive {of_positives}"


def lineage(content: Mapping[str, Any], settings_sha256: str) -> Rows:
    """Which model, code and machine."""
    model, environment = content["model"], content["environment"]
    cut_at = model["max_seq_length"]
    rows = {
        "base model": model["base"],
        "revision": model["revision"],
        "adapter of": model["adapter_of"],
        "assumed of the base model": "; ".join(assumptions(model["assumed"])),
        "embedding": f"{count(model['embedding_dimension'])} numbers, texts cut at {cut_at or 'no'} tokens",
        "prompt of queries": model["prompts"]["query"],
        "prompt of documents": model["prompts"]["document"],
        "devices": ", ".join(environment["devices"]),
        "platform": f"Python {environment['python']} on {environment['platform']}",
        "packages": ", ".join(f"{name} {version}" for name, version in environment["packages"].items()),
        "git commit": environment["git_sha"],
        "image": environment["image"],
        "settings (SHA-256)": settings_sha256,
        "rows trained on (digest)": content["training"] and content["training"]["rows_digest"],
        "saved model, read back": _verified(content["verification"]),
    } | {f"exported as {name}": _exported(name, content) for name in content["exports"]}
    return tuple((name, str(value)) for name, value in rows.items() if value)


def hashes(content: Mapping[str, Any], inputs: Mapping[str, str]) -> Rows:
    """The SHA-256 of every input, by name."""
    train = content["data"]["train"]
    uris = {f"train/{one['name']}": one["uri"] for one in train["sources"]} if train else {}
    return tuple((f"{name} ({uris[name]})" if name in uris else name, digest) for name, digest in inputs.items())


def _verified(verification: dict[str, Any] | None) -> str:
    if verification is None:
        return ""
    apart = f"{verification['max_difference']:.1e}, tolerated {verification['tolerance']:.1e}"
    return f"gives the embeddings it gave in memory (largest difference {apart})"


def _exported(name: str, content: Mapping[str, Any]) -> str:
    """Size, score and speed of a format beside those of the model itself."""
    one, primary = content["exports"][name], content["primary_metric"]
    told = [size(one["bytes"]), f"least similarity to the model {plain(one['min_cosine'], 4)}"]
    if primary:
        eval_set, metric = judged(content)
        score = plain(one["metrics"][eval_set][metric], 4)
        told.append(f"{primary['name']} {score} ({plain(primary['after'], 4)} by the model)")
    return ", ".join([*told, f"{plain(1000 * one['seconds_per_text'], 1)} ms a text on a processor"])


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
