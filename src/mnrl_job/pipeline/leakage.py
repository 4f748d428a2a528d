"""Find the training pairs that occur in an eval set, and apply `MNRL_LEAKAGE_POLICY` to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import read_table
from mnrl_job.deduplication.audit import Leaks
from mnrl_job.deduplication.groups import TextGroups, find_groups
from mnrl_job.deduplication.leakage import find_leaks, write_relevant_pairs
from mnrl_job.deduplication.text_quality import example_pairs
from mnrl_job.errors import DataError
from mnrl_job.system.logs import warn

CONSEQUENCES = {"remove": "they are removed", "keep": "its metrics will be too high"}


def group_and_find_leaks(
    pairs: Pairs, eval_sets: Sequence[EvalSet], threshold: float | None, folder: Path
) -> tuple[TextGroups, dict[str, NDArray[np.bool_]]]:
    """Group the texts, and mark the pairs that also occur in an eval set given by the user.

    `threshold` is the Jaccard similarity of near-duplicates, None for equal texts only; `folder` must not exist.

    Returns:
        The groups, and by the name of each eval set a mask of shape (rows,).
    """
    folder.mkdir()
    relevant_pairs = write_relevant_pairs(eval_sets, folder / "relevant.arrow")
    groups = find_groups(pairs, relevant_pairs.documents if relevant_pairs else None, threshold, folder)
    if relevant_pairs is None:
        return groups, {}
    masks = find_leaks(pairs, groups, relevant_pairs, threshold, folder / "leaks")
    return groups, {eval_set.name: mask for eval_set, mask in zip(eval_sets, masks, strict=True)}


def apply_leakage_policy(policy: str, masks: Mapping[str, NDArray[np.bool_]], pairs: Pairs) -> Leaks:
    """Warn of leaked pairs.

    Raises:
        DataError: there are some, and the policy is `fail`.
    """
    leaks = Leaks(policy, dict(masks))
    if not len(leaks.rows):
        return leaks
    by_eval_set = ", ".join(f"{int(mask.sum())} in {name}" for name, mask in masks.items() if mask.any())
    message = f"{len(leaks.rows)} of {pairs.rows} training pairs also occur in an eval set ({by_eval_set})"
    if policy == "fail":
        first = example_pairs(read_table(pairs.path), leaks.rows)[0]
        raise DataError(f"{message}, the first is {first['anchor']!r}; remove them, or set MNRL_LEAKAGE_POLICY=remove")
    warn(f"{message}; {CONSEQUENCES[policy]}")
    return leaks
