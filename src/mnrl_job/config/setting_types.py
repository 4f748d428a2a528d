"""What settings are made of: sources, intervals and times, and how each is read from its text."""

import difflib
import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from mnrl_job.config.row_filter import RowFilter, parse_row_filter

RANKING_METRICS = ("accuracy", "precision", "recall", "mrr", "map", "ndcg")
METRIC_CUTOFFS = (1, 3, 5, 10, 100)
DEEPEST_CUTOFF = 10_000
SECONDS = {"s": 1, "m": 60, "h": 3600}
ExportFormat = Literal["onnx", "openvino", "int8"]
HardnessMode = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]


@dataclass(frozen=True, slots=True)
class Source:
    """One place data comes from: `name=uri` or `name:weight=uri`. Without a name it takes its file's or folder's."""

    name: str
    uri: str
    weight: float | None = None

    def __str__(self) -> str:
        weight = "" if self.weight is None else f":{self.weight!r}".removesuffix(".0")
        return f"{self.name}{weight}={self.uri}"


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time."""

    seconds: float

    def __str__(self) -> str:
        unit = next(unit for unit in "hms" if self.seconds % SECONDS[unit] == 0)
        return f"{int(self.seconds) // SECONDS[unit]}{unit}"


@dataclass(frozen=True, slots=True)
class Interval:
    """How often: after so many steps, or so many seconds."""

    steps: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return str(self.steps or Duration(self.seconds or 0.0))

    def due(self, step: int, seconds: float) -> bool:
        """Whether it is time, at this step and so many seconds after the last time."""
        return step % self.steps == 0 if self.steps else seconds >= (self.seconds or 0)


@dataclass(frozen=True, slots=True)
class Hardness:
    """How much more a negative counts the more similar it is to the query, and which negatives: the library's names."""

    mode: HardnessMode
    strength: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def __str__(self) -> str:
        return f"{self.mode}:{self.strength:g}"


@dataclass(frozen=True, slots=True)
class RankRange:
    """Places of a ranking, counted from 1, the last included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class NodeRange:
    """How many nodes train together: a fixed number, or for an elastic run from so many to so many."""

    min_nodes: int
    max_nodes: int

    def __str__(self) -> str:
        return str(self.max_nodes) if self.min_nodes == self.max_nodes else f"{self.min_nodes}:{self.max_nodes}"


def _parse_every(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9]+)([smh]?)", value.strip())
    if not found or not int(found[1]):
        raise ValueError("not a positive integer with an optional unit s, m or h")
    number, unit = int(found[1]), found[2]
    return Interval(seconds=float(number * SECONDS[unit])) if unit else Interval(steps=number)


def _parse_time(value: object) -> object:
    every = _parse_every(value)
    if not isinstance(every, Interval):
        return value
    if every.seconds is None:
        raise ValueError("missing unit")
    return Duration(every.seconds)


def _parse_sources(value: object) -> object:
    if not isinstance(value, str):
        return value
    value.encode()  # a UnicodeEncodeError is a ValueError, too
    sources = tuple(_parse_source(item.strip()) for item in value.split(",") if item.strip())
    names = [source.name for source in sources]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two sources are named {repeated[0]!r}; rename one as name=uri")
    return sources


def _parse_source(item: str) -> Source:
    # A weight holds no slash, so that the colon of s3://bucket/a=b begins none.
    if named := re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_.-]*)(?::([^=/\\]*))?=(.+)", item):
        return Source(named[1], named[3], _parse_weight(named[2], item))
    return Source(own_name(item), item)


def own_name(uri: str) -> str:
    """The name a source takes from its file or folder."""
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


def _refuse_weights(sources: tuple[Source, ...]) -> tuple[Source, ...]:
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


def _parse_places(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([1-9][0-9]{0,5})\s*-\s*([1-9][0-9]{0,5})", value.strip())
    if not found or int(found[1]) > int(found[2]):
        raise ValueError("not an ascending range of ranks")
    return RankRange(int(found[1]), int(found[2]))


def parse_node_range(text: str) -> NodeRange:
    """`2` or `2:8`.

    Raises:
        ValueError: it is neither.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})(?::([1-9][0-9]{0,5}))?", text.strip())
    if not found:
        raise ValueError("not a number of nodes or MIN:MAX")
    fewest, most = int(found[1]), int(found[2] or found[1])
    if fewest > most:
        raise ValueError(f"MIN {fewest} is greater than MAX {most}")
    return NodeRange(fewest, most)


def _parse_num_nodes(value: object) -> object:
    return parse_node_range(value) if isinstance(value, str) else value


def _parse_row_filter(value: object) -> object:
    return parse_row_filter(value) if isinstance(value, str) else value


def _parse_near_duplicates(value: object) -> object:
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
    if not cutoffs or not 1 <= cutoffs[0] <= cutoffs[-1] <= DEEPEST_CUTOFF:
        raise ValueError(f"a cutoff is an integer from 1 to {DEEPEST_CUTOFF}")
    return tuple(cutoffs)


def _parse_dimensions(value: object) -> object:
    return tuple(one for one in value.split(",") if one.strip()) if isinstance(value, str) else value


def _refuse_disorder(dimensions: tuple[int, ...]) -> tuple[int, ...]:
    for larger, smaller in pairwise(dimensions):
        if smaller >= larger:
            raise ValueError(f"{smaller} after {larger} is not in descending order")
    return dimensions


def _parse_export(value: object) -> object:
    """Each format once, in one order, so that the order given changes no hash."""
    if not isinstance(value, str):
        return value
    known = get_args(ExportFormat)
    asked = {item.strip() for item in value.split(",") if item.strip()}
    for one in sorted(asked.difference(known)):
        near = difflib.get_close_matches(one, known, n=1)
        raise ValueError(f"unknown format {one!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return tuple(one for one in known if one in asked)


def _parse_primary_metric(value: object) -> object:
    if not re.fullmatch(rf"(?:[A-Za-z0-9_.-]+\.)?(?:{'|'.join(RANKING_METRICS)})@[1-9][0-9]*", str(value)):
        raise ValueError("unknown metric")
    return value


Sources = Annotated[tuple[Source, ...], BeforeValidator(_parse_sources)]
EvalSources = Annotated[Sources, AfterValidator(_refuse_weights)]
IntervalSetting = Annotated[Interval, BeforeValidator(_parse_every)]
Time = Annotated[Duration, BeforeValidator(_parse_time)]
Names = Annotated[tuple[str, ...], BeforeValidator(_parse_names)]
Trackers = Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], BeforeValidator(_parse_trackers)]
NearDuplicates = Annotated[Annotated[float, Field(gt=0.5, le=1)] | None, BeforeValidator(_parse_near_duplicates)]
Cutoffs = Annotated[tuple[int, ...], BeforeValidator(_parse_cutoffs)]
Dimensions = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_parse_dimensions), AfterValidator(_refuse_disorder)
]
ExportFormats = Annotated[tuple[ExportFormat, ...], BeforeValidator(_parse_export)]
# The space at its end belongs to a prompt.
Prompt = Annotated[str, StringConstraints(strip_whitespace=False)]
HardnessWeight = Annotated[Hardness, BeforeValidator(_parse_hardness)]
RankingPlaces = Annotated[RankRange, BeforeValidator(_parse_places)]
NumNodes = Annotated[NodeRange, BeforeValidator(_parse_num_nodes)]
RowsToTake = Annotated[RowFilter, BeforeValidator(_parse_row_filter)]
PrimaryMetric = Annotated[str, BeforeValidator(_parse_primary_metric)]
