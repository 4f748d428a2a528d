"""What `training_log.jsonl` shows: loss and learning rate, embeddings, speed and memory, step by step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from mnrl_job.report.page.charts import Chart, Series, Values, line_chart, smoothed
from mnrl_job.report.page.formatting import plain

Log = list[dict[str, Any]]

SCORES = {"positive": "positive_score", "hardest negative": "hardest_negative_score"}
# The largest unit that the whole time fills at least three times.
UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


@dataclass(frozen=True, slots=True)
class Curves:
    """The charts by section; what the first alarm about collapsed embeddings said, and whether any step was judged."""

    training: tuple[Chart, ...]
    embeddings: tuple[Chart, ...]
    speed: tuple[Chart, ...]
    collapse: str
    judged: bool
    margin: str


def curves(log: Log, batch_size: int) -> Curves:
    """Draw all there is to see in the log of a training.

    Args:
        log: its lines.
        batch_size: pairs in a step.
    """
    if not log:
        return Curves((), (), (), "", False, "")
    alarms = [f"{line['collapse']} (step {line['step']:,})" for line in log if line.get("collapse")]
    judged = any(line.get("collapse") is not None for line in log)
    drawn = _training(log), _embeddings(log), _speed(log, batch_size)
    return Curves(*drawn, alarms[0] if alarms else "", judged, _margin(log))


def while_training(content: Mapping[str, Any]) -> tuple[Chart, ...]:
    """The scores that were taken while the model trained, if any were."""
    taken = content["training"]["scores"] if content["training"] else ()
    name = content["primary_metric"]["name"] if taken else ""
    values = [Series(name, [one["value"] for one in taken])]
    return _drawn(line_chart(f"{name} while training", [one["step"] for one in taken], values))


def _training(log: Log) -> tuple[Chart, ...]:
    steps = [line["step"] for line in log]
    return _drawn(
        line_chart("Loss", steps, smoothed("loss", _column(log, "loss"))),
        line_chart("Learning rate", steps, [Series("learning rate", _column(log, "learning_rate"))], from_zero=True),
        line_chart("Gradient norm", steps, smoothed("gradient norm", _column(log, "grad_norm")), from_zero=True),
    )


def _embeddings(log: Log) -> tuple[Chart, ...]:
    steps = [line["step"] for line in log]
    accuracy = [
        *smoothed("in-batch accuracy", _column(log, "in_batch_accuracy")),
        Series("by guessing", _column(log, "chance"), "reference"),
    ]
    positive, negative = (smoothed(name, _column(log, key))[0] for name, key in SCORES.items())
    negative = replace(negative, kind="other")
    alike = smoothed("mean cosine", _column(log, "anisotropy"))
    return _drawn(
        line_chart("In-batch accuracy", steps, accuracy, from_zero=True),
        line_chart("Margin of the positive", steps, [positive, negative]),
        line_chart("Anisotropy", steps, alike, from_zero=True),
    )


def _speed(log: Log, batch_size: int) -> tuple[Chart, ...]:
    steps = [line["step"] for line in log]
    # A first line has nothing before it but the warming up.
    pairs: list[float | None] = [None]
    for line, after in pairwise(log):
        spent = after["seconds"] - line["seconds"]
        pairs.append((after["step"] - line["step"]) * batch_size / spent if spent > 0 else None)
    unit, name = next((unit, name) for unit, name in UNITS if unit == 1 or log[-1]["seconds"] >= 3 * unit)
    time = [line["seconds"] / unit for line in log]
    memory = [line["memory_bytes"] / 1e9 if line.get("memory_bytes") else None for line in log]
    return _drawn(
        line_chart("Pairs per second", steps, smoothed("pairs per second", pairs), from_zero=True),
        line_chart(f"Time passed, in {name}", steps, [Series(name, time)], from_zero=True),
        line_chart("Memory in use, in GB", steps, [Series("GB", memory)], from_zero=True),
    )


def _margin(log: Log) -> str:
    """How far positives stood above their hardest negatives, first and last."""
    apart = [
        line["positive_score"] - line["hardest_negative_score"]
        for line in log
        if line.get("positive_score") is not None and line.get("hardest_negative_score") is not None
    ]
    return f"{plain(apart[0], 2)} at first, {plain(apart[-1], 2)} in the end" if apart else ""


def _column(log: Log, name: str) -> Values:
    return [line.get(name) for line in log]


def _drawn(*charts: Chart | None) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart)
