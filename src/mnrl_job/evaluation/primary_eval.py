"""The eval set by which a run is judged."""

from collections.abc import Sequence
from typing import TypeVar

from mnrl_job.data.evalset import EvalSet
from mnrl_job.evaluation.results import Evaluation
from mnrl_job.evaluation.significance import Comparison

# No metric can be higher, so a model with this score before training cannot gain.
PERFECT_SCORE = 1.0

Named = TypeVar("Named", EvalSet, Evaluation, Comparison)


def judged_by(name: str, some: Sequence[Named]) -> Named | None:
    """The eval set of this name, by which a run is judged, else the first; None where there are none."""
    return next((one for one in some if one.name == name), some[0] if some else None)
