"""Hold out an eval set if the user gives none."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.evalset import EvalSet, write_evalset
from mnrl_job.data.pairs import Pairs
from mnrl_job.deduplication.groups import TextGroups
from mnrl_job.deduplication.holdout import HoldoutLimits, hold_out
from mnrl_job.system.logs import log, warn

HOLDOUT = "holdout"


def hold_out_eval_set(
    pairs: Pairs, groups: TextGroups, limits: HoldoutLimits, seed: int, scratch: Path
) -> tuple[tuple[EvalSet, ...], NDArray[np.bool_]]:
    """Write the eval set below `scratch`; with a ratio of 0 none. Also returns a mask of the pairs, shape (rows,).

    Raises:
        DataError: nothing can be held out.
    """
    if not limits.ratio:
        warn("no eval data and MNRL_HOLDOUT_RATIO=0: this run cannot say whether the model became better")
        return (), np.zeros(pairs.rows, dtype=bool)
    held_out = hold_out(pairs, groups, limits, seed)
    log(f"held out {int(held_out.rows.sum())} of {pairs.rows} pairs as eval set '{HOLDOUT}'")
    return (write_evalset(HOLDOUT, HOLDOUT, scratch / "eval" / HOLDOUT, held_out.data),), held_out.rows
