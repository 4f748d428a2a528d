"""Before against after, metric by metric, with intervals as numbers and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mnrl_job.report.page.charts import scale
from mnrl_job.report.page.formatting import chance, plain, signed
from mnrl_job.report.page.verdict import gain_is_sure, judged

NO_DRAWING = Markup()
HEADLINES = ("ndcg@10", "mrr@10", "map@10", "recall@10", "accuracy@1", "accuracy@10")
WIDTH, HEIGHT = 200, 22


@dataclass(frozen=True, slots=True)
class Row:
    """One metric. Without `after` only `before` is known, and there is no drawing."""

    metric: str
    by_words: str
    before: str
    after: str = ""
    gain: str = ""
    interval: str = ""
    p_value: str = ""
    tone: str = ""
    drawing: Markup = NO_DRAWING


@dataclass(frozen=True, slots=True)
class Scores:
    """One eval set: the metrics people look at first, and the others."""

    name: str
    queries: int
    documents: int
    compared: bool
    by_words: bool
    main: tuple[Row, ...]
    others: tuple[Row, ...]


def scores(content: Mapping[str, Any]) -> list[Scores]:
    """The scores on each eval set, the one that the run is judged by first."""
    judged_by, metric = judged(content)
    found = []
    for name in sorted(content["evaluation"], key=lambda name: name != judged_by):
        one, facts = content["evaluation"][name], content["data"]["eval"][name]
        first = list(dict.fromkeys(key for key in (metric, *HEADLINES) if key in one["before"]))
        others = [key for key in one["before"] if key not in first]
        drawn = _rows(one, first), _rows(one, others)
        found.append(Scores(name, facts["queries"], facts["documents"], bool(one["after"]), bool(one["bm25"]), *drawn))
    return found


def _rows(one: dict[str, Any], metrics: Sequence[str]) -> tuple[Row, ...]:
    if not one["after"]:
        return tuple(Row(metric, _by_words(one, metric), plain(one["before"][metric])) for metric in metrics)
    ends = [end for metric in metrics for end in one["confidence_interval"][metric]]
    return tuple(_row(one, metric, (min(0.0, *ends), max(0.0, *ends))) for metric in metrics)


def _row(one: dict[str, Any], metric: str, span: tuple[float, float]) -> Row:
    (low, high), delta = one["confidence_interval"][metric], one["delta"][metric]
    tone = ("good" if delta > 0 else "bad") if gain_is_sure(one, metric) else "open"
    return Row(
        metric=metric,
        by_words=_by_words(one, metric),
        before=plain(one["before"][metric]),
        after=plain(one["after"][metric]),
        gain=signed(delta),
        interval=f"{signed(low)} to {signed(high)}",
        p_value=chance(one["p_value"][metric]),
        tone=tone,
        drawing=_drawing(low, delta, high, span, tone),
    )


def _by_words(one: Mapping[str, Any], metric: str) -> str:
    return plain(one["bm25"][metric]) if one["bm25"] else ""


def _drawing(low: float, delta: float, high: float, span: tuple[float, float], tone: str) -> Markup:
    """The interval as a bar with the gain as a dot, beside a line where nothing changed."""
    place = scale(*span, 6, WIDTH - 6, loose=False)
    return Markup(
        '<svg class="interval" viewBox="0 0 {w} {h}" aria-hidden="true"><line class="zero" x1="{zero:.1f}" '
        'x2="{zero:.1f}" y1="0" y2="{h}"/><line class="bar {tone}" x1="{low:.1f}" x2="{high:.1f}" y1="11" y2="11"/>'
        '<circle class="point {tone}" cx="{at:.1f}" cy="11" r="5"/></svg>'
    ).format(w=WIDTH, h=HEIGHT, zero=place(0), low=place(low), high=place(high), at=place(delta), tone=tone)


def slope(content: Mapping[str, Any]) -> Markup:
    """The primary metric before and after, and where the interval lies, on the whole scale from 0 to 1."""
    primary = content["primary_metric"]
    if primary is None or primary["after"] is None:
        return NO_DRAWING
    name, metric = judged(content)
    low, high = content["evaluation"][name]["confidence_interval"][metric]
    before, after = primary["before"], primary["after"]
    place = scale(0, 1, 12, 448, loose=False)
    parts = [Markup('<line class="rail" x1="12" x2="448" y1="52" y2="52"/>')]
    parts += [
        Markup('<text class="tick x" x="{:.1f}" y="78">{}</text>').format(place(tick), f"{tick:g}")
        for tick in (0, 0.25, 0.5, 0.75, 1)
    ]
    ends = (place(min(1.0, max(0.0, before + end))) for end in (low, high))
    parts += [
        Markup('<line class="reach" x1="{:.1f}" x2="{:.1f}" y1="52" y2="52"/>').format(*ends),
        Markup('<line class="move" x1="{:.1f}" x2="{:.1f}" y1="52" y2="52"/>').format(place(before), place(after)),
        Markup('<circle class="was" cx="{:.1f}" cy="52" r="8"/>').format(place(before)),
        Markup('<circle class="is" cx="{:.1f}" cy="52" r="9"/>').format(place(after)),
    ]
    apart = abs(place(after) - place(before)) > 120
    for value, word, side in ((before, "before", -1), (after, "after", 1)):
        anchor = "middle" if apart else ("end" if (side < 0) == (after >= before) else "start")
        parts.append(
            Markup('<text class="mark {}" x="{:.1f}" y="30">{} {}</text>').format(
                anchor, min(400.0, max(60.0, place(value))), word, plain(value)
            )
        )
    return Markup('<svg class="slope" viewBox="0 0 460 86" aria-hidden="true">{}</svg>').format(Markup("").join(parts))
