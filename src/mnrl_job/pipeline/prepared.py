"""The prepared training data of a run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.inputs import Listing
from mnrl_job.data.pairs import Pairs


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was read, what the workers train, evaluate and select weights on, and the content of `audit.json`."""

    read: Pairs
    pairs: Pairs
    batch_plan: BatchPlan
    eval_sets: tuple[EvalSet, ...]
    audit: dict[str, Any]
    selection_split: EvalSet | None = None


@dataclass(frozen=True, slots=True)
class PreparedRecord:
    """The content of `prepared.json`: settings and inputs that the data was made with, and the data.

    Paths are relative to the folder of the data set.
    """

    settings: dict[str, Any]
    listing: dict[str, Listing]
    prepared: Prepared


def relocated(prepared: Prepared, move: Callable[[Path], Path]) -> Prepared:
    """The same data with other paths."""
    plan, split = prepared.batch_plan, prepared.selection_split
    return replace(
        prepared,
        read=replace(prepared.read, path=move(prepared.pairs.path)),
        pairs=replace(prepared.pairs, path=move(prepared.pairs.path)),
        batch_plan=replace(
            plan,
            labels=move(plan.labels),
            plan=move(plan.plan),
            non_minable=move(plan.non_minable) if plan.non_minable else None,
        ),
        eval_sets=tuple(replace(each, folder=move(each.folder)) for each in prepared.eval_sets),
        selection_split=replace(split, folder=move(split.folder)) if split else None,
    )
