"""Hold out eval sets: one to report if the user gives none, and one on which weights are selected."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet, write_evalset
from mnrl_job.data.pairs import Pairs
from mnrl_job.deduplication.groups import TextGroups
from mnrl_job.deduplication.holdout import MAX_OTHER_DOCUMENTS, HoldoutSpec, hold_out
from mnrl_job.errors import DataError
from mnrl_job.evaluation.weight_selection import MIN_QUERIES
from mnrl_job.system.logs import log, warn

HOLDOUT = "holdout"
SELECTION = "selection"
SELECTION_RATIO = 0.05
MAX_SELECTION_QUERIES = 1_000
# With fewer rows the split would take more than the choice on its few queries gives back.
MIN_ROWS_FOR_SELECTION = 5_000


def hold_out_eval_set(
    settings: Settings, pairs: Pairs, groups: TextGroups, scratch: Path
) -> tuple[tuple[EvalSet, ...], NDArray[np.bool_]]:
    """Write the eval set below `scratch`; with a ratio of 0 none. Also returns a mask of the pairs, shape (rows,).

    Raises:
        DataError: nothing can be held out.
    """
    ratio, max_queries = settings.holdout_ratio, settings.holdout_max_queries
    if not ratio:
        warn("no eval data and MNRL_HOLDOUT_RATIO=0: this run cannot say whether the model became better")
        return (), np.zeros(pairs.rows, dtype=bool)
    spec = HoldoutSpec(int(pairs.rows * ratio), max_queries, MAX_OTHER_DOCUMENTS, settings.seed)
    is_held_out, data = hold_out(pairs, groups, np.ones(pairs.rows, dtype=bool), spec)
    if not is_held_out.any():
        raise DataError(
            f"MNRL_HOLDOUT_RATIO={ratio:g}, MNRL_HOLDOUT_MAX_QUERIES={max_queries}: no group of the {pairs.rows} rows "
            "is small enough to hold out; give MNRL_EVAL_DATA, more pairs, or MNRL_HOLDOUT_RATIO=0 to train without "
            "evaluation"
        )
    log(f"held out {int(is_held_out.sum())} of {pairs.rows} pairs as eval set '{HOLDOUT}'")
    return (write_evalset(HOLDOUT, HOLDOUT, scratch / "eval" / HOLDOUT, data),), is_held_out


def hold_out_selection_split(
    settings: Settings, pairs: Pairs, groups: TextGroups, is_training: NDArray[np.bool_], scratch: Path
) -> tuple[EvalSet | None, NDArray[np.bool_]]:
    """Hold out training pairs to select weights on, so that no reported eval set does. Also returns their mask.

    A 20th of the pairs in whole groups, at most `MAX_SELECTION_QUERIES`. None where nothing is selected, or below
    `MIN_ROWS_FOR_SELECTION` pairs or `MIN_QUERIES` without `MNRL_EVAL_INTERVAL`.

    Raises:
        DataError: `MNRL_EVAL_INTERVAL` needs the split, and no group is small enough.
    """
    rows, needed = int(is_training.sum()), settings.eval_interval is not None
    if not needed and (settings.weight_interpolation != "auto" or rows < MIN_ROWS_FOR_SELECTION):
        return None, np.zeros(pairs.rows, dtype=bool)
    budget = max(1, int(rows * SELECTION_RATIO))
    # One distractor a query is enough to be hard, and few enough to be embedded for several weights.
    spec = HoldoutSpec(budget, MAX_SELECTION_QUERIES, None, settings.seed, stream=3)
    is_held_out, data = hold_out(pairs, groups, is_training, spec)
    if not needed and len(data.queries) < MIN_QUERIES:
        return None, np.zeros(pairs.rows, dtype=bool)
    if not data.queries:
        raise DataError(
            f"MNRL_EVAL_INTERVAL: no group of the {rows} rows is small enough to select weights on; "
            "give more pairs, or unset it"
        )
    if len(data.queries) < MIN_QUERIES:
        warn(f"MNRL_EVAL_INTERVAL: the best weights are selected on {len(data.queries)} queries only: mostly by chance")
    log(f"keeping {int(is_held_out.sum())} of {rows} pairs to select weights on")
    return write_evalset(SELECTION, SELECTION, scratch / SELECTION / "split", data), is_held_out
