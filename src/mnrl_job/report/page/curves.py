"""Charts of `training_log.jsonl`: loss and learning rate, embeddings, speed and memory by step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from mnrl_job.report.page.charts import Chart, Series, Values, line_chart, smoothed
from mnrl_job.report.page.formatting import plain

Log = list[dict[str, Any]]

SCORES = {"positive": "positive_score", "hardest negative": "hardest_negative_score"}
# The largest unit of which the run took at least three.
UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


@dataclass(frozen=True, slots=True)
class Curves:
    """Charts by section; the first collapse warning, and whether collapse was checked at any step."""

    training: tuple[Chart, ...]
    embeddings: tuple[Chart, ...]
    speed: tuple[Chart, ...]
    collapse: str
    collapse_checked: bool
    margin: str


def training_curves(log: Log, batch_size: int) -> Curves:
    """Draw the charts of a training log, by its lines and the pairs per step."""
    if not log:
        return Curves((), (), (), "", False, "")
    warnings = [f"{line['collapse']} (step {line['step']:,})" for line in log if line.get("collapse")]
    checked = any(line.get("collapse") is not None for line in log)
    charts = _training(log), _embeddings(log), _speed(log, batch_size)
    return Curves(*charts, warnings[0] if warnings else "", checked, _margin(log))


def evaluation_charts(metrics: Mapping[str, Any]) -> tuple[Chart, ...]:
    """The score on the selection split during training, if it was evaluated."""
    scores = metrics["training"]["scores"] if metrics["training"] else ()
    series = [Series("score", [score["value"] for score in scores])]
    return _not_empty(line_chart("Selection split while training", [score["step"] for score in scores], series))


def interpolation_charts(metrics: Mapping[str, Any]) -> tuple[Chart, ...]:
    """The scores by which the fraction of the trained weights was selected, if they were."""
    points = metrics["training"]["interpolation_points"] if metrics["training"] else ()
    alphas = [point["alpha"] for point in points]
    columns = {"Your pairs": "selection", "General search": "general_search"}
    series = [Series(name, [point[key] for point in points]) for name, key in columns.items()]
    return _not_empty(
        *(line_chart(f"{line.name} by fraction of trained weights", alphas, [line], unit="α") for line in series)
    )


def _training(log: Log) -> tuple[Chart, ...]:
    steps = [line["step"] for line in log]
    return _not_empty(
        line_chart("Loss", steps, smoothed("loss", _column(log, "loss"))),
        line_chart("Learning rate", steps, [Series("learning rate", _column(log, "learning_rate"))], from_zero=True),
        line_chart("Gradient norm", steps, smoothed("gradient norm", _column(log, "grad_norm")), from_zero=True),
    )


def _embeddings(log: Log) -> tuple[Chart, ...]:
    steps = [line["step"] for line in log]
    accuracy = [
        *smoothed("in-batch accuracy", _column(log, "in_batch_accuracy")),
        Series("chance", _column(log, "chance"), "reference"),
    ]
    positive, negative = (smoothed(name, _column(log, key))[0] for name, key in SCORES.items())
    negative = replace(negative, kind="other")
    anisotropy = smoothed("mean cosine", _column(log, "anisotropy"))
    return _not_empty(
        line_chart("In-batch accuracy", steps, accuracy, from_zero=True),
        line_chart("Margin of the positive", steps, [positive, negative], band="margin"),
        line_chart("Anisotropy", steps, anisotropy, from_zero=True),
    )


def _speed(log: Log, batch_size: int) -> tuple[Chart, ...]:
    steps = [line["step"] for line in log]
    # The time before the first line includes warm-up of the device.
    throughput: list[float | None] = [None]
    for previous, line in pairwise(log):
        seconds = line["seconds"] - previous["seconds"]
        throughput.append((line["step"] - previous["step"]) * batch_size / seconds if seconds > 0 else None)
    unit, name = next((unit, name) for unit, name in UNITS if unit == 1 or log[-1]["seconds"] >= 3 * unit)
    elapsed = [line["seconds"] / unit for line in log]
    memory = [line["memory_bytes"] / 1e9 if line.get("memory_bytes") else None for line in log]
    return _not_empty(
        line_chart("Pairs per second", steps, smoothed("pairs per second", throughput), from_zero=True),
        line_chart(f"Elapsed time in {name}", steps, [Series(name, elapsed)], from_zero=True),
        line_chart("Memory in GB", steps, [Series("GB", memory)], from_zero=True),
    )


def _margin(log: Log) -> str:
    """The first and last margin of positives over their hardest negatives."""
    margins = [
        line["positive_score"] - line["hardest_negative_score"]
        for line in log
        if line.get("positive_score") is not None and line.get("hardest_negative_score") is not None
    ]
    return f"{plain(margins[0], 2)} at the start, {plain(margins[-1], 2)} at the end" if margins else ""


def _column(log: Log, name: str) -> Values:
    return [line.get(name) for line in log]


def _not_empty(*charts: Chart | None) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart)
