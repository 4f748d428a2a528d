"""Metrics before and after training, with confidence intervals as numbers and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mnrl_job.report.page.charts import scale
from mnrl_job.report.page.formatting import p_value, plain, signed
from mnrl_job.report.page.verdict import is_significant, primary_eval_and_metric

NO_CHART = Markup()
COMMON_METRICS = ("ndcg@10", "mrr@10", "map@10", "recall@10", "accuracy@1", "accuracy@10")
WIDTH, HEIGHT = 200, 22


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric. Without training only `bm25` and `before` are set."""

    metric: str
    bm25: str
    before: str
    after: str = ""
    gain: str = ""
    interval: str = ""
    p_value: str = ""
    tone: str = ""
    chart: Markup = NO_CHART


@dataclass(frozen=True, slots=True)
class MetricTable:
    """One eval set: the most common metrics, and the others."""

    name: str
    queries: int
    documents: int
    compared: bool
    bm25: bool
    main: tuple[MetricRow, ...]
    others: tuple[MetricRow, ...]


def metric_tables(metrics: Mapping[str, Any]) -> list[MetricTable]:
    """The metrics of each eval set, starting with the primary evaluation."""
    primary, metric = primary_eval_and_metric(metrics)
    tables = []
    for name in sorted(metrics["evaluation"], key=lambda name: name != primary):
        evaluation, data = metrics["evaluation"][name], metrics["data"]["eval"][name]
        main = list(dict.fromkeys(key for key in (metric, *COMMON_METRICS) if key in evaluation["before"]))
        others = [key for key in evaluation["before"] if key not in main]
        table = MetricTable(
            name=name,
            queries=data["queries"],
            documents=data["documents"],
            compared=bool(evaluation["after"]),
            bm25=bool(evaluation["bm25"]),
            main=_rows(evaluation, main),
            others=_rows(evaluation, others),
        )
        tables.append(table)
    return tables


def _rows(evaluation: dict[str, Any], metrics: Sequence[str]) -> tuple[MetricRow, ...]:
    if not evaluation["after"]:
        return tuple(
            MetricRow(metric, _bm25(evaluation, metric), plain(evaluation["before"][metric])) for metric in metrics
        )
    bounds = [bound for metric in metrics for bound in evaluation["confidence_interval"][metric]]
    return tuple(_row(evaluation, metric, (min(0.0, *bounds), max(0.0, *bounds))) for metric in metrics)


def _row(evaluation: dict[str, Any], metric: str, value_range: tuple[float, float]) -> MetricRow:
    (low, high), delta = evaluation["confidence_interval"][metric], evaluation["delta"][metric]
    tone = ("good" if delta > 0 else "bad") if is_significant(evaluation, metric) else "open"
    return MetricRow(
        metric=metric,
        bm25=_bm25(evaluation, metric),
        before=plain(evaluation["before"][metric]),
        after=plain(evaluation["after"][metric]),
        gain=signed(delta),
        interval=f"{signed(low)} to {signed(high)}",
        p_value=p_value(evaluation["p_value"][metric]),
        tone=tone,
        chart=_interval_chart(low, delta, high, value_range, tone),
    )


def _bm25(evaluation: Mapping[str, Any], metric: str) -> str:
    return plain(evaluation["bm25"][metric]) if evaluation["bm25"] else ""


def _interval_chart(low: float, delta: float, high: float, value_range: tuple[float, float], tone: str) -> Markup:
    """The interval as a bar with the gain as a dot, and a line at zero."""
    position = scale(*value_range, 6, WIDTH - 6, loose=False)
    return Markup(
        '<svg class="interval" viewBox="0 0 {w} {h}" aria-hidden="true"><line class="zero" x1="{zero:.1f}" '
        'x2="{zero:.1f}" y1="0" y2="{h}"/><line class="bar {tone}" x1="{low:.1f}" x2="{high:.1f}" y1="11" y2="11"/>'
        '<circle class="point {tone}" cx="{at:.1f}" cy="11" r="5"/></svg>'
    ).format(w=WIDTH, h=HEIGHT, zero=position(0), low=position(low), high=position(high), at=position(delta), tone=tone)


def slope_chart(metrics: Mapping[str, Any]) -> Markup:
    """The primary metric before and after with its interval, on a scale from 0 to 1."""
    primary = metrics["primary_metric"]
    if primary is None or primary["after"] is None:
        return NO_CHART
    name, metric = primary_eval_and_metric(metrics)
    low, high = metrics["evaluation"][name]["confidence_interval"][metric]
    before, after = primary["before"], primary["after"]
    position = scale(0, 1, 12, 448, loose=False)
    parts = [Markup('<line class="rail" x1="12" x2="448" y1="52" y2="52"/>')]
    parts += [
        Markup('<text class="tick x" x="{:.1f}" y="78">{}</text>').format(position(tick), f"{tick:g}")
        for tick in (0, 0.25, 0.5, 0.75, 1)
    ]
    bounds = (position(min(1.0, max(0.0, before + bound))) for bound in (low, high))
    parts += [
        Markup('<line class="reach" x1="{:.1f}" x2="{:.1f}" y1="52" y2="52"/>').format(*bounds),
        Markup('<line class="move" x1="{:.1f}" x2="{:.1f}" y1="52" y2="52"/>').format(
            position(before), position(after)
        ),
        Markup('<circle class="was" cx="{:.1f}" cy="52" r="8"/>').format(position(before)),
        Markup('<circle class="is" cx="{:.1f}" cy="52" r="9"/>').format(position(after)),
    ]
    labels = {f"before {plain(before)}": before, f"after {plain(after)}": after}
    if abs(position(after) - position(before)) < 150:  # one label, as two would overlap
        labels = {" → ".join(labels): (before + after) / 2}
    for label, value in labels.items():
        margin = 5.5 * len(label)
        x = min(460 - margin, max(margin, position(value)))
        parts.append(Markup('<text class="mark" x="{:.1f}" y="30">{}</text>').format(x, label))
    return Markup('<svg class="slope" viewBox="0 0 460 86" aria-hidden="true">{}</svg>').format(Markup("").join(parts))
