"""Line charts as SVG, without scripts, each with a text description and a table."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from mnrl_job.report.page.formatting import short

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 36
TABLE_ROWS = 12
MIN_SMOOTHED_POINTS = 40

Kind = Literal["main", "other", "faint", "reference", "band"]
Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart, with a value or None for each step."""

    name: str
    values: Values
    kind: Kind = "main"


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with a text description and a table of some of its points."""

    title: str
    description: str
    svg: Markup
    legend: tuple[tuple[Kind, str], ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear scale from values to positions, with its ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(
    title: str,
    steps: Sequence[float],
    series: Sequence[Series],
    from_zero: bool = False,
    band: str = "",
    unit: str = "step",
) -> Chart | None:
    """Draw lines over the steps; None without values. The description is of the first line that is not faint.

    With `from_zero` the y-axis includes zero. `band` names the area between the main line and the other, `unit` the
    x-axis, if it is not of steps.
    """
    values = [value for line in series for value in line.values if value is not None]
    shown = [line for line in series if any(value is not None for value in line.values)]
    if not values:
        return None
    x_scale = scale(min(steps), max(steps), LEFT, WIDTH - RIGHT, loose=False, integer=unit == "step")
    y_scale = scale(min(0.0, *values) if from_zero else min(values), max(values), HEIGHT - BOTTOM, TOP)
    described = next((line for line in shown if line.kind in ("main", "other")), shown[0])
    description = _describe(described, steps, unit)
    parts = [*_axes(x_scale, y_scale, unit), *_band(steps, shown, x_scale, y_scale)]
    parts += [_line(line, steps, x_scale, y_scale) for line in sorted(shown, key=lambda line: line.kind != "faint")]
    svg = Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" data-x="{} {}" data-unit="{}" data-steps="{}">{}</svg>'
    ).format(
        WIDTH,
        HEIGHT,
        f"{title}. {description}",
        LEFT,
        WIDTH - RIGHT,
        unit,
        " ".join(map(str, steps)),
        Markup("").join(parts),
    )
    columns = [line for line in shown if line.kind != "faint"]
    rows = [
        (_number(steps[index]), *(_value(line.values[index]) for line in columns))
        for index in spread_indices(len(steps))
    ]
    legend: list[tuple[Kind, str]] = [(line.kind, line.name) for line in shown] if len(shown) > 1 else []
    legend += [("band", band)] * bool(band)
    return Chart(title, description, svg, tuple(legend), (unit, *(line.name for line in columns)), tuple(rows))


def smoothed(name: str, values: Values) -> list[Series]:
    """A line; with many points its running mean, and the points behind it."""
    if len(values) < MIN_SMOOTHED_POINTS:
        return [Series(name, values)]
    window = len(values) // 20
    means: list[float | None] = []
    for index in range(len(values)):
        neighbors = [value for value in values[max(0, index - window) : index + window + 1] if value is not None]
        means.append(sum(neighbors) / len(neighbors) if neighbors else None)
    return [Series(f"{name}, running mean", means), Series("as logged", values, "faint")]


def scale(low: float, high: float, start: float, end: float, loose: bool = True, integer: bool = False) -> Scale:
    """Map values to positions, with about 4 round ticks; `loose` extends the range to the next ticks."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        margin = abs(high) * 0.1 or 1.0
        low, high = (low - margin, high + margin) if loose else (low, high + 1)
    rough = (high - low) / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    if integer:
        step = max(1.0, float(math.ceil(step)))
    if loose:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    first = math.ceil(low / step - 1e-9)
    ticks = tuple(number * step for number in range(first, math.floor(high / step + 1e-9) + 1))
    return Scale(low, high, start, end, ticks)


def spread_indices(points: int) -> list[int]:
    """At most 12 indices, evenly spread, with the first and the last."""
    count = min(points, TABLE_ROWS)
    return sorted({round(number * (points - 1) / max(1, count - 1)) for number in range(count)})


def _value(value: float | None) -> str:
    return "–" if value is None else short(value)


def _number(x: float) -> str:
    return f"{x:,.0f}" if x == int(x) else f"{x:g}"


def _describe(line: Series, steps: Sequence[float], unit: str) -> str:
    points = [(step, value) for step, value in zip(steps, line.values, strict=True) if value is not None]
    (first_step, first), (last_step, last) = points[0], points[-1]
    lowest, highest = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    return (
        f"From {short(first)} at {unit} {_number(first_step)} to {short(last)} at {unit} {_number(last_step)}; "
        f"lowest {short(lowest[1])} at {unit} {_number(lowest[0])}, "
        f"highest {short(highest[1])} at {unit} {_number(highest[0])}."
    )


def _axes(x_scale: Scale, y_scale: Scale, unit: str) -> Iterator[Markup]:
    for value in y_scale.ticks:
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>').format(
            LEFT, WIDTH - RIGHT, y=y_scale(value)
        )
        yield Markup('<text class="tick y" x="{}" y="{:.1f}">{}</text>').format(
            LEFT - 8, y_scale(value) + 4, short(value)
        )
    for value in x_scale.ticks:
        yield Markup('<text class="tick x" x="{:.1f}" y="{}">{}</text>').format(
            x_scale(value), HEIGHT - BOTTOM + 18, _number(value)
        )
    yield Markup('<text class="tick x" x="{}" y="{}">{}</text>').format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 2, unit)


def _band(steps: Sequence[float], series: Sequence[Series], x_scale: Scale, y_scale: Scale) -> Iterator[Markup]:
    """Fill the area between the main line and the other."""
    main, other = (next((line for line in series if line.kind == kind), None) for kind in ("main", "other"))
    if main is None or other is None:
        return
    points = [
        (x_scale(step), y_scale(high), y_scale(low))
        for step, high, low in zip(steps, main.values, other.values, strict=True)
        if high is not None and low is not None
    ]
    outline = [(x, y) for x, y, _ in points] + [(x, y) for x, _, y in reversed(points)]
    yield Markup('<polygon class="band" points="{}"/>').format(" ".join(f"{x:.1f},{y:.1f}" for x, y in outline))


def _line(line: Series, steps: Sequence[float], x_scale: Scale, y_scale: Scale) -> Markup:
    points = [
        (x_scale(step), y_scale(value)) for step, value in zip(steps, line.values, strict=True) if value is not None
    ]
    if len(points) == 1:
        return Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(line.kind, *points[0])
    coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="line {}" points="{}" data-name="{}" data-values="{}"/>').format(
        line.kind, coordinates, line.name, " ".join(map(_value, line.values))
    )
