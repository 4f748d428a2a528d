"""Curves as SVG: seen without a script, and told in words and in a table beside."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from mnrl_job.report.page.formatting import short

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 36
TABLE_ROWS = 12
SMOOTHED_FROM = 40

Kind = Literal["main", "other", "faint", "reference"]
Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart, a value for each step or None where there is none."""

    name: str
    values: Values
    kind: Kind = "main"


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and what it says, in words and as a table of a few of its points."""

    title: str
    words: str
    svg: Markup
    legend: tuple[tuple[Kind, str], ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places, with the values at which lines are drawn."""

    low: float
    high: float
    begin: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


def line_chart(
    title: str,
    steps: Sequence[int],
    series: Sequence[Series],
    from_zero: bool = False,
) -> Chart | None:
    """Draw lines over the steps; None where there is nothing to draw.

    Args:
        title: what is drawn.
        steps: where there are values.
        series: the lines. What is said of the chart in words is of the first that is not faint.
        from_zero: whether zero must be on the axis.
    """
    known = [value for one in series for value in one.values if value is not None]
    shown = [one for one in series if any(value is not None for value in one.values)]
    if not known:
        return None
    along = scale(min(steps), max(steps), LEFT, WIDTH - RIGHT, loose=False, whole=True)
    up = scale(min(0.0, *known) if from_zero else min(known), max(known), HEIGHT - BOTTOM, TOP)
    told = next((one for one in shown if one.kind in ("main", "other")), shown[0])
    words = _in_words(told, steps)
    parts = [*_axes(along, up), *_band(steps, shown, along, up)]
    parts += [_line(one, steps, along, up) for one in sorted(shown, key=lambda one: one.kind != "faint")]
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, f"{title}. {words}", Markup("").join(parts)
    )
    in_table = [one for one in shown if one.kind != "faint"]
    rows = [
        (f"{steps[at]:,}", *("–" if (value := one.values[at]) is None else short(value) for one in in_table))
        for at in picked(len(steps))
    ]
    legend = tuple((one.kind, one.name) for one in shown) if len(shown) > 1 else ()
    return Chart(title, words, svg, legend, ("step", *(one.name for one in in_table)), tuple(rows))


def smoothed(name: str, values: Values) -> list[Series]:
    """A line, and where it has many points also its running mean, so that one sees where it goes."""
    if len(values) < SMOOTHED_FROM:
        return [Series(name, values)]
    window = len(values) // 20
    means: list[float | None] = []
    for at in range(len(values)):
        some = [value for value in values[max(0, at - window) : at + window + 1] if value is not None]
        means.append(sum(some) / len(some) if some else None)
    return [Series(f"{name}, running mean", means), Series("as logged", values, "faint")]


def scale(low: float, high: float, begin: float, end: float, loose: bool = True, whole: bool = False) -> Scale:
    """Spread values over a length, with some 4 round ticks; `loose` lets the axis end at one."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        room = abs(high) * 0.1 or 1.0
        low, high = (low - room, high + room) if loose else (low, high + 1)
    rough = (high - low) / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    if loose:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    first = math.ceil(low / step - 1e-9)
    ticks = tuple(number * step for number in range(first, math.floor(high / step + 1e-9) + 1))
    return Scale(low, high, begin, end, ticks)


def picked(points: int) -> list[int]:
    """At most 12 of so many, evenly spread, with the first and the last."""
    count = min(points, TABLE_ROWS)
    return sorted({round(number * (points - 1) / max(1, count - 1)) for number in range(count)})


def _in_words(one: Series, steps: Sequence[int]) -> str:
    known = [(step, value) for step, value in zip(steps, one.values, strict=True) if value is not None]
    (first, began), (last, ended) = known[0], known[-1]
    lowest, highest = min(known, key=lambda at: at[1]), max(known, key=lambda at: at[1])
    return (
        f"From {short(began)} at step {first:,} to {short(ended)} at step {last:,}; lowest {short(lowest[1])} at step "
        f"{lowest[0]:,}, highest {short(highest[1])} at step {highest[0]:,}."
    )


def _axes(along: Scale, up: Scale) -> Iterator[Markup]:
    for value in up.ticks:
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>').format(
            LEFT, WIDTH - RIGHT, y=up(value)
        )
        yield Markup('<text class="tick y" x="{}" y="{:.1f}">{}</text>').format(LEFT - 8, up(value) + 4, short(value))
    for value in along.ticks:
        yield Markup('<text class="tick x" x="{:.1f}" y="{}">{}</text>').format(
            along(value), HEIGHT - BOTTOM + 18, f"{value:,.0f}"
        )
    yield Markup('<text class="tick x" x="{}" y="{}">step</text>').format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 2)


def _band(steps: Sequence[int], series: Sequence[Series], along: Scale, up: Scale) -> Iterator[Markup]:
    """Fill what lies between a main line and the other: the margin."""
    main, other = (next((one for one in series if one.kind == kind), None) for kind in ("main", "other"))
    if main is None or other is None:
        return
    points = [
        (along(step), up(high), up(low))
        for step, high, low in zip(steps, main.values, other.values, strict=True)
        if high is not None and low is not None
    ]
    outline = [(x, y) for x, y, _ in points] + [(x, y) for x, _, y in reversed(points)]
    yield Markup('<polygon class="band" points="{}"/>').format(" ".join(f"{x:.1f},{y:.1f}" for x, y in outline))


def _line(one: Series, steps: Sequence[int], along: Scale, up: Scale) -> Markup:
    points = [(along(step), up(value)) for step, value in zip(steps, one.values, strict=True) if value is not None]
    if len(points) == 1:
        return Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(one.kind, *points[0])
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="line {}" points="{}"/>').format(escape(one.kind), places)
