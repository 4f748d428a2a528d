"""From groups to the batch plan of a run: whether duplicates are kept apart or masked, and how much is used."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.batching.max_batches import largest_batch, largest_single_batch, max_batches
from mnrl_job.batching.planning import (
    PlanConfig,
    SourceShare,
    batches_by_source,
    false_negatives_at_random,
    false_negatives_in,
    plan_epoch,
    plan_epochs,
)
from mnrl_job.config.settings import Settings
from mnrl_job.data.integer_sets import distinct_dense
from mnrl_job.data.pairs import Pairs, SourceRecord
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import NO_GROUP, write_labels
from mnrl_job.errors import DataError, SettingsError
from mnrl_job.runs.attempt import Attempt
from mnrl_job.system.logs import log, warn

# `auto` masks where planned batches use less than this share of masked ones' rows (docs/internals/performance.md).
WORTH_MASKING = 0.9

# Below this share of the rows that could be used, the user should know.
WORTH_A_WARNING = 0.9

NEARLY_ALL = 0.98


def lay_out(
    settings: Settings, attempt: Attempt, pairs: Pairs, groups: NDArray[np.int64], negatives: Ragged
) -> tuple[BatchPlan, dict[str, Any]]:
    """Choose how batches are made and plan the whole run.

    Returns:
        What the workers need, and the facts for the audit.

    Raises:
        DataError: there is nothing that a positive could be told from.
        SettingsError: no batch can be filled.
    """
    refuse_without_contrast(groups, negatives)
    rule, counts, why = choose_rule(settings, pairs.sources, groups)
    epochs = plan_epochs(groups, rule, counts, settings.seed, settings.epochs, settings.max_steps)
    plan = np.concatenate(epochs)
    starts = np.cumsum([0, *map(len, epochs[:-1])])
    labels, path = attempt.scratch / "labels.arrow", attempt.scratch / "plan.npy"
    write_labels(labels, groups, negatives if "negatives" in pairs.columns else None)
    np.save(path, plan)
    batches = {source.name: count for source, count in zip(pairs.sources, counts, strict=True)}
    tell_use(settings, pairs, batches)
    mode: Literal["masked", "planned"] = "masked" if rule.masked else "planned"
    facts = {
        "mode": mode,
        "why": why,
        "batch_size": settings.batch_size,
        "batches_an_epoch": batches,
        "rows_used_an_epoch": sum(counts) * settings.batch_size,
        "false_negatives_in_a_batch": {
            "at_random": round(false_negatives_at_random(groups, settings.batch_size), 3),
            "as_planned": 0.0 if rule.masked else round(false_negatives_in(groups, epochs[0]), 3),
        },
        **largest_batches(pairs.sources, groups),
    }
    return BatchPlan(labels, path, mode, len(plan), tuple(starts.tolist())), facts


def largest_batches(sources: Sequence[SourceRecord], groups: NDArray[np.int64]) -> dict[str, int]:
    """How large a batch without repetitions could be, where nearly all rows are to be used, and at most.

    A batch is of one source, so a size that suits the large ones may be too large for the others.
    """
    parts = [part for part in np.split(groups, np.cumsum([one.rows for one in sources])) if len(part)]
    sizes = sorted((largest_batch(part, NEARLY_ALL) for part in parts), reverse=True)
    enough = (
        size for size in sizes[:-1] if sum(max_batches(part, size) * size for part in parts) >= NEARLY_ALL * len(groups)
    )
    return {
        "largest_batch_that_uses_nearly_all_rows": next(enough, sizes[-1]),
        "largest_batch_at_most": max(largest_single_batch(part) for part in parts),
    }


def choose_rule(
    settings: Settings, sources: Sequence[SourceRecord], groups: NDArray[np.int64]
) -> tuple[PlanConfig, tuple[int, ...], str]:
    """Planned batches where they use enough of the data, else masked ones; or as `MNRL_BATCHING` says.

    Returns:
        The rule, the batches of each source in an epoch, and why it is this rule.

    Raises:
        SettingsError: no batch can be filled.
    """
    size = settings.batch_size
    anchors, positives = (len(distinct_dense(groups[:, side])) for side in (0, 1))
    scarce = f"{anchors} distinct anchors" if anchors < positives else f"{positives} distinct positives"
    repeats = f"{len(groups)} pairs have {scarce}"
    planned = PlanConfig(size, tuple(SourceShare(source.rows, source.weight) for source in sources))
    masked = replace(planned, masked=True)
    refuse_large_batch(sources, size)
    most = batches_by_source(groups, masked)
    if settings.batching == "masked":
        return masked, most, "MNRL_BATCHING=masked"
    counts = batches_by_source(groups, planned)
    # A plan may fall short of the count where a text is an anchor here and a positive there.
    filled = len(plan_epoch(groups, planned, counts, settings.seed, 0))
    if settings.batching == "planned":
        if not filled:
            possible = min(largest_batches(sources, groups)["largest_batch_at_most"], size - 1)
            lower = f"set it to {possible} or less, or " if possible > 1 else ""
            raise SettingsError(
                f"MNRL_BATCH_SIZE={size}: no batch can be filled without repeating a text, the {repeats}; "
                f"{lower}set MNRL_BATCHING=masked"
            )
        return planned, counts, "MNRL_BATCHING=planned"
    if filled >= WORTH_MASKING * sum(most):
        return planned, counts, "duplicates can be kept apart"
    why = f"{repeats}: kept apart they fill {filled} of {sum(most)} batches of {size}"
    warn(f"{why}; so duplicates may meet in a batch, and do not count as negatives (MNRL_BATCHING=masked)")
    return masked, most, why


def refuse_without_contrast(groups: NDArray[np.int64], negatives: Ragged) -> None:
    """Data that cannot teach, however batches are made.

    Raises:
        DataError: there is but one anchor or one positive, and no negative.
    """
    for column, text in zip(groups.T, ("anchor", "positive"), strict=True):
        if (column == column[0]).all() and (negatives.values == NO_GROUP).all():
            raise DataError(
                f"MNRL_TRAIN_DATA: the {len(groups)} training pairs have one {text} between them, so there is nothing "
                f"to tell it from; give pairs with different {text}s, or negatives"
            )


def refuse_large_batch(sources: Sequence[SourceRecord], size: int) -> None:
    """Sources that cannot fill a batch, however batches are made.

    Raises:
        SettingsError: no source has the rows of a batch, or one has not and weights bind the others to it.
    """
    largest, smallest = (choose(sources, key=lambda source: source.rows) for choose in (max, min))
    if size > largest.rows:
        of = "training pairs" if len(sources) == 1 else "training pairs of the largest source"
        raise SettingsError(
            f"MNRL_BATCH_SIZE={size} is larger than the {largest.rows} {of}; set it to {largest.rows} or less"
        )
    if size > smallest.rows and any(source.weight is not None for source in sources):
        raise SettingsError(
            f"MNRL_BATCH_SIZE={size} is larger than the {smallest.rows} training pairs of {smallest.name}, and by the "
            "weights in MNRL_TRAIN_DATA the other sources stand still without it; lower it, or take out the weights "
            "or this source"
        )


def tell_use(settings: Settings, pairs: Pairs, batches: dict[str, int]) -> None:
    """How many of the rows an epoch uses; a warning where it is few, or a source is not used at all."""
    steps, size = sum(batches.values()), settings.batch_size
    used = f"{steps} batches of {size} use {steps * size} of {pairs.rows} pairs an epoch"
    weighted = any(source.weight is not None for source in pairs.sources)
    lack = "get no batch by the weights" if weighted else f"fill no batch of {size}"
    for source in pairs.sources:
        if not batches[source.name] and source.rows:
            warn(f"{source.name}: its {source.rows} pairs {lack}, so none of them is trained on")
    if steps * size < WORTH_A_WARNING * (pairs.rows // size * size):
        others = " or other weights" if weighted else ""
        warn(f"{used}; a smaller MNRL_BATCH_SIZE{others} may use more, see `batches` and `skew` in audit.json")
    elif steps * size < pairs.rows:
        log(f"{used}; which are left out changes with the epoch")
