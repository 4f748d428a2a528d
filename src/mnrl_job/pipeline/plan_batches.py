"""From groups to the batch plan of a run, and what the audit says about it."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.batching.planning import (
    PlanConfig,
    batches_by_source,
    false_negatives_at_random,
    false_negatives_in,
    largest_batch_without_duplicates,
    plan_epochs,
    steps_of_run,
)
from mnrl_job.data.pairs import Pairs, SourceRecord
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import NO_GROUP, write_labels
from mnrl_job.errors import DataError, SettingsError
from mnrl_job.report.audit import MAX_MASKED
from mnrl_job.system.logs import log, warn

# Warn if an epoch uses less than this share of the rows that could fill batches.
MIN_ROWS_USED = 0.9
# Fewer steps leave a model behind that has much to learn.
FEW_STEPS = 50


def plan_batches(
    config: PlanConfig, pairs: Pairs, groups: NDArray[np.int64], negatives: Ragged, folder: Path
) -> tuple[BatchPlan, dict[str, Any]]:
    """Plan the batches of the whole run.

    Args:
        config: batch size, mixture and length of the run.
        pairs: to train on.
        groups: of their anchors and positives, shape (rows, 2).
        negatives: the groups of the negatives that each row was given.
        folder: where the plan's files are written.

    Returns:
        The plan, and the facts for the audit.

    Raises:
        DataError: all rows have the same anchor or positive, and there are no negatives.
        SettingsError: no batch can be filled.
    """
    refuse_without_contrast(groups, negatives)
    refuse_large_batch(pairs.sources, config.batch_size)
    labels, path = folder / "labels.arrow", folder / "plan.npy"
    write_labels(labels, groups, negatives if "negatives" in pairs.columns else None)
    write_plan(path, groups, config)
    plan = np.load(path, mmap_mode="r")
    counts = batches_by_source(config)
    epoch_starts = range(0, len(plan), sum(counts))
    batches = {source.name: count for source, count in zip(pairs.sources, counts, strict=True)}
    false_negatives = false_negatives_in(groups, plan[: sum(counts)])
    facts = {
        "batch_size": config.batch_size,
        "batches_an_epoch": batches,
        "rows_used_an_epoch": sum(counts) * config.batch_size,
        "false_negatives_in_a_batch": {
            "at_random": round(false_negatives_at_random(groups, config.batch_size), 3),
            "as_planned": round(false_negatives, 3),
        },
        "masked_share_of_negatives": round(false_negatives / (config.batch_size * (config.batch_size - 1)), 4),
        "largest_batch_without_duplicates": largest_batch_of_sources(pairs.sources, counts, groups),
    }
    report_rows_used(config.batch_size, pairs, batches)
    report_masking(facts)
    report_few_steps(config, len(plan))
    return BatchPlan(labels, path, len(plan), tuple(epoch_starts)), facts


def write_plan(path: Path, groups: NDArray[np.int64], config: PlanConfig) -> None:
    """Write the batches of a run as `.npy`, epoch after epoch, so that no more than one is in memory."""
    shape = (steps_of_run(config), config.batch_size)
    with path.open("wb") as file:
        write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
        for plan in plan_epochs(groups, config):
            file.write(plan.data)


def largest_batch_of_sources(sources: Sequence[SourceRecord], batches: Sequence[int], groups: NDArray[np.int64]) -> int:
    """The largest batch size at which no batch of any source used needs to repeat a text."""
    bounds = pairwise(np.cumsum([0, *(source.rows for source in sources)]).tolist())
    return min(
        largest_batch_without_duplicates(groups[start:stop])
        for (start, stop), count in zip(bounds, batches, strict=True)
        if count
    )


def refuse_without_contrast(groups: NDArray[np.int64], negatives: Ragged) -> None:
    """Refuse data without any negative, however batches are made.

    Raises:
        DataError: all rows have the same anchor or positive, and there are no negatives.
    """
    for column, text in zip(groups.T, ("anchor", "positive"), strict=True):
        if (column == column[0]).all() and (negatives.values == NO_GROUP).all():
            raise DataError(
                f"MNRL_TRAIN_DATA: all {len(groups)} training pairs have the same {text}, so there are no negatives "
                f"to train against; give pairs with different {text}s, or negatives"
            )


def refuse_large_batch(sources: Sequence[SourceRecord], batch_size: int) -> None:
    """Refuse sources that cannot fill a batch.

    Raises:
        SettingsError: no source has the rows of a batch, or one has not and weights bind the others to it.
    """
    largest, smallest = (choose(sources, key=lambda source: source.rows) for choose in (max, min))
    if batch_size > largest.rows:
        of = "training pairs" if len(sources) == 1 else "training pairs of the largest source"
        raise SettingsError(
            f"MNRL_BATCH_SIZE={batch_size} is larger than the {largest.rows} {of}; set it to {largest.rows} or less"
        )
    if batch_size > smallest.rows and any(source.weight is not None for source in sources):
        raise SettingsError(
            f"MNRL_BATCH_SIZE={batch_size} is larger than the {smallest.rows} training pairs of {smallest.name}, and "
            "by the weights in MNRL_TRAIN_DATA no other source contributes batches without it; lower it, or remove "
            "the weights or this source"
        )


def report_rows_used(batch_size: int, pairs: Pairs, batches: dict[str, int]) -> None:
    """Log the rows used per epoch; warn if they are few, or a source is not used at all."""
    steps = sum(batches.values())
    usage = f"{steps} batches of {batch_size} use {steps * batch_size} of {pairs.rows} pairs per epoch"
    weighted = any(source.weight is not None for source in pairs.sources)
    reason = "get no batch by the weights" if weighted else f"fill no batch of {batch_size}"
    for source in pairs.sources:
        if not batches[source.name] and source.rows:
            warn(f"{source.name}: its {source.rows} pairs {reason}, so none of them is trained on")
    if steps * batch_size < MIN_ROWS_USED * (pairs.rows // batch_size * batch_size):
        remedy = "a smaller MNRL_BATCH_SIZE" + (" or other weights" if weighted else "")
        warn(f"{usage}; {remedy} may use more, see `batches` in audit.json")
    elif steps * batch_size < pairs.rows:
        log(f"{usage}; the rows left out change with the epoch")


def report_few_steps(config: PlanConfig, steps: int) -> None:
    """Say what may help where a run is short because the data is small."""
    if config.epochs == 1 and config.max_steps is None and steps < FEW_STEPS:
        log(
            f"{steps} steps are few: if your texts have words that the base model cannot know, try MNRL_EPOCHS=6; that "
            "tripled the gain on the bundled example, and made little difference on general texts"
        )


def report_masking(facts: dict[str, Any]) -> None:
    """Warn if duplicates cost many of the negatives."""
    share, largest = facts["masked_share_of_negatives"], facts["largest_batch_without_duplicates"]
    if share > MAX_MASKED:
        remedy = f"with MNRL_BATCH_SIZE={largest} or less none would be" if largest > 1 else "see `skew` in audit.json"
        warn(f"texts repeat so often that {share:.0%} of the in-batch negatives are duplicates and masked; {remedy}")
