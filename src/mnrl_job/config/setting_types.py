"""Types of settings, such as sources, intervals and durations, and their parsers."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from mnrl_job.config.row_filter import RowFilter, parse_row_filter

RANKING_METRICS = ("accuracy", "precision", "recall", "mrr", "map", "ndcg")
METRIC_CUTOFFS = (1, 3, 5, 10, 100)
MAX_CUTOFF = 10_000
# The folder of prepared data sets below `MNRL_OUTPUT`.
PREPARED = "prepared"
SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600}
ExportFormat = Literal["onnx", "openvino", "int8"]
HardnessMode = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]


def setting(default: Any, meaning: str, accepts: str, **constraints: Any) -> Any:
    """A field of the settings, with what the generated docs say about it."""
    return Field(default, description=meaning, json_schema_extra={"accepts": accepts}, **constraints)


@dataclass(frozen=True, slots=True)
class Source:
    """A source of data, `name=uri` or `name:weight=uri`. The default name is that of its file or folder."""

    name: str
    uri: str
    weight: float | None = None

    def __str__(self) -> str:
        weight = "" if self.weight is None else f":{self.weight!r}".removesuffix(".0")
        return f"{self.name}{weight}={self.uri}"


@dataclass(frozen=True, slots=True)
class Duration:
    """A duration, such as `10m`."""

    seconds: float

    def __str__(self) -> str:
        unit = next(unit for unit in "hms" if self.seconds % SECONDS_PER_UNIT[unit] == 0)
        return f"{int(self.seconds) // SECONDS_PER_UNIT[unit]}{unit}"


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval in steps or in seconds."""

    steps: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return str(self.steps or Duration(self.seconds or 0.0))

    def due(self, step: int, seconds: float) -> bool:
        """Whether the interval is over, at this step and so many seconds after the last time."""
        return step % self.steps == 0 if self.steps else seconds >= (self.seconds or 0)


@dataclass(frozen=True, slots=True)
class Hardness:
    """Weighting of negatives by their similarity to the query; modes as in Sentence Transformers."""

    mode: HardnessMode
    strength: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def __str__(self) -> str:
        return f"{self.mode}:{self.strength:g}"


@dataclass(frozen=True, slots=True)
class RankRange:
    """Ranks counted from 1, including the last."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class NodeRange:
    """The number of nodes: fixed, or the minimum and maximum of an elastic run."""

    min_nodes: int
    max_nodes: int

    def __str__(self) -> str:
        return str(self.max_nodes) if self.min_nodes == self.max_nodes else f"{self.min_nodes}:{self.max_nodes}"


def _parse_interval(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9]+)([smh]?)", value.strip())
    if not match or not int(match[1]):
        raise ValueError("not a positive integer with an optional unit s, m or h")
    number, unit = int(match[1]), match[2]
    return Interval(seconds=float(number * SECONDS_PER_UNIT[unit])) if unit else Interval(steps=number)


def _parse_duration(value: object) -> object:
    interval = _parse_interval(value)
    if not isinstance(interval, Interval):
        return value
    if interval.seconds is None:
        raise ValueError("missing unit")
    return Duration(interval.seconds)


def _parse_sources(value: object) -> object:
    if not isinstance(value, str):
        return value
    value.encode()  # raises a UnicodeEncodeError, which is a ValueError
    sources = tuple(_parse_source(item.strip()) for item in value.split(",") if item.strip())
    names = [source.name for source in sources]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two sources are named {repeated[0]!r}; rename one as name=uri")
    return sources


def _parse_source(item: str) -> Source:
    # A weight has no slash, so that the colon in s3://bucket/a=b does not start one.
    if match := re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_.-]*)(?::([^=/\\]*))?=(.+)", item):
        return Source(match[1], match[3], _parse_weight(match[2], item))
    return Source(default_name(item), item)


def default_name(uri: str) -> str:
    """The name of a source without one: that of its file or folder."""
    stem = re.split(r"[/\\]", uri.rstrip("/\\"))[-1]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", re.sub(r"(?<=.)\..*$", "", stem)).lstrip("-._").rstrip("-.")
    return name or "data"


def _parse_weight(text: str | None, item: str) -> float | None:
    if text is None:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (0 < weight < math.inf):
        raise ValueError(f"{item!r}: the weight {text!r} is not a number above 0, as in name:2.5=uri")
    return weight


def _reject_weights(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    for source in sources:
        if source.weight is not None:
            raise ValueError(f"{str(source)!r}: eval sets take no weight; write {source.name}={source.uri}")
    return sources


def _parse_hardness(value: object) -> object:
    if not isinstance(value, str):
        return value
    mode, colon, strength = value.rpartition(":")
    mode = mode.strip()
    if colon and mode not in get_args(HardnessMode):
        raise ValueError(f"unknown mode {mode!r}")
    return {"mode": mode or "all_negatives", "strength": strength}


def _parse_rank_range(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([1-9][0-9]{0,5})\s*-\s*([1-9][0-9]{0,5})", value.strip())
    if not match or int(match[1]) > int(match[2]):
        raise ValueError("not an ascending range of ranks")
    return RankRange(int(match[1]), int(match[2]))


def parse_node_range(text: str) -> NodeRange:
    """Parse `2` or `2:8`.

    Raises:
        ValueError: it is neither.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5})(?::([1-9][0-9]{0,5}))?", text.strip())
    if not match:
        raise ValueError("not a number of nodes or MIN:MAX")
    min_nodes, max_nodes = int(match[1]), int(match[2] or match[1])
    if min_nodes > max_nodes:
        raise ValueError(f"MIN {min_nodes} is greater than MAX {max_nodes}")
    return NodeRange(min_nodes, max_nodes)


def _parse_num_nodes(value: object) -> object:
    return parse_node_range(value) if isinstance(value, str) else value


def _parse_row_filter(value: object) -> object:
    return parse_row_filter(value) if isinstance(value, str) else value


def _parse_weight_fraction(value: object) -> object:
    return 1.0 if str(value).strip().casefold() == "off" else value


def _parse_threshold(value: object) -> object:
    return None if str(value).strip().casefold() == "off" else value


def _parse_names(value: object) -> object:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _parse_trackers(value: object) -> object:
    names = _parse_names(value)
    return tuple(dict.fromkeys(names)) if isinstance(names, tuple) else names


def _parse_cutoffs(value: object) -> object:
    if not isinstance(value, str):
        return value
    cutoffs = sorted({int(item) if item.strip().isdecimal() else 0 for item in value.split(",") if item.strip()})
    if not cutoffs or not 1 <= cutoffs[0] <= cutoffs[-1] <= MAX_CUTOFF:
        raise ValueError(f"a cutoff is an integer from 1 to {MAX_CUTOFF}")
    return tuple(cutoffs)


def _parse_dimensions(value: object) -> object:
    return tuple(item for item in value.split(",") if item.strip()) if isinstance(value, str) else value


def _check_descending(dimensions: tuple[int, ...]) -> tuple[int, ...]:
    for larger, smaller in pairwise(dimensions):
        if smaller >= larger:
            raise ValueError(f"{smaller} after {larger} is not in descending order")
    return dimensions


def _refuse_reserved_id(run_id: str) -> str:
    if run_id == PREPARED:
        raise ValueError(f"OUTPUT/{PREPARED} holds prepared data sets")
    return run_id


def _parse_primary_metric(value: object) -> object:
    if not re.fullmatch(rf"(?:[A-Za-z0-9_.-]+\.)?(?:{'|'.join(RANKING_METRICS)})@[1-9][0-9]*", str(value)):
        raise ValueError("unknown metric")
    return value


RunId = Annotated[str, AfterValidator(_refuse_reserved_id)]
Sources = Annotated[tuple[Source, ...], BeforeValidator(_parse_sources)]
EvalSources = Annotated[Sources, AfterValidator(_reject_weights)]
IntervalSetting = Annotated[Interval, BeforeValidator(_parse_interval)]
DurationSetting = Annotated[Duration, BeforeValidator(_parse_duration)]
Names = Annotated[tuple[str, ...], BeforeValidator(_parse_names)]
Trackers = Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], BeforeValidator(_parse_trackers)]
WeightFraction = Annotated[
    Annotated[float, Field(ge=0, le=1)] | Literal["auto"], BeforeValidator(_parse_weight_fraction)
]
SimilarityThreshold = Annotated[Annotated[float, Field(gt=0.5, le=1)] | None, BeforeValidator(_parse_threshold)]
Cutoffs = Annotated[tuple[int, ...], BeforeValidator(_parse_cutoffs)]
Dimensions = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_parse_dimensions), AfterValidator(_check_descending)
]
# A trailing space is part of a prompt.
Prompt = Annotated[str, StringConstraints(strip_whitespace=False)]
HardnessSetting = Annotated[Hardness, BeforeValidator(_parse_hardness)]
RankRangeSetting = Annotated[RankRange, BeforeValidator(_parse_rank_range)]
NodeRangeSetting = Annotated[NodeRange, BeforeValidator(_parse_num_nodes)]
RowFilterSetting = Annotated[RowFilter, BeforeValidator(_parse_row_filter)]
PrimaryMetric = Annotated[str, BeforeValidator(_parse_primary_metric)]
