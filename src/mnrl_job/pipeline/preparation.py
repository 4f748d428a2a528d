"""Prepare the training data: remove leaked pairs, hold out eval sets, plan the batches, write the audit."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from mnrl_job.batching.planning import PlanConfig, SourceShare
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.inputs import Inputs
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.read_pairs import read_pairs
from mnrl_job.data.select_pairs import select_pairs
from mnrl_job.deduplication.audit import audit
from mnrl_job.deduplication.groups import without_contradictions
from mnrl_job.deduplication.holdout import without_held_out
from mnrl_job.errors import DataError
from mnrl_job.pipeline.data_requirements import check_batch_size, check_hardness
from mnrl_job.pipeline.find_prepared import prepared_settings
from mnrl_job.pipeline.holdout import hold_out_eval_set, hold_out_selection_split
from mnrl_job.pipeline.inputs import read_eval_sets, read_options
from mnrl_job.pipeline.leakage import apply_leakage_policy, group_and_find_leaks
from mnrl_job.pipeline.load_prepared import load_prepared
from mnrl_job.pipeline.plan_batches import plan_batches
from mnrl_job.pipeline.prepared import Prepared
from mnrl_job.system.logs import log
from mnrl_job.system.quantities import plural


def read_and_prepare(settings: Settings, inputs: Inputs, folder: Path, scratch: Path, workers: int) -> Prepared:
    """Read the eval sets and the training pairs, and prepare them; or read the prepared data set, if there is one.

    Raises:
        JobError: an input is unusable, or as for `prepare_pairs`.
    """
    if inputs.prepared:
        return load_prepared(inputs.prepared, settings, scratch, workers)
    eval_sets = read_eval_sets(inputs.evals, folder, settings.max_bad_row_ratio)
    pairs = read_pairs(inputs.train, read_options(settings), scratch / "pairs.arrow")
    log(
        f"read {pairs.rows} pairs from {plural(len(inputs.train), 'source')}",
        rejected=pairs.rejected,
        filtered=pairs.filtered,
    )
    return prepare_pairs(settings, pairs, eval_sets, folder, scratch, workers)


def prepare_pairs(
    settings: Settings, read: Pairs, eval_sets: tuple[EvalSet, ...], folder: Path, scratch: Path, workers: int
) -> Prepared:
    """Prepare the pairs that were read. The result is written to `folder`; `scratch` is for temporary files.

    Raises:
        DataError: pairs occur in an eval set and `MNRL_LEAKAGE_POLICY` is `fail`, or no pairs are left, or nothing can
            be held out.
        SettingsError: the data cannot fill a batch, or has no negatives to weight.
    """
    check_batch_size(settings.batch_size, workers)
    check_hardness(settings.hardness, settings.num_hard_negatives, read)
    groups, masks = group_and_find_leaks(read, eval_sets, settings.near_duplicate_threshold, scratch / "texts")
    leaks = apply_leakage_policy(settings.leakage_policy, masks, read)
    selected = np.ones(read.rows, dtype=bool)
    if leaks.policy == "remove":
        selected[leaks.rows] = False
    if not selected.any():
        raise DataError(
            "MNRL_TRAIN_DATA: every training pair also occurs in an eval set; "
            "give other pairs, or set MNRL_LEAKAGE_POLICY=keep"
        )
    is_held_out = np.zeros(read.rows, dtype=bool)
    if not eval_sets:
        eval_sets, is_held_out = hold_out_eval_set(settings, read, groups, folder)
    selection_split, is_split = hold_out_selection_split(settings, read, groups, selected & ~is_held_out, folder)
    is_held_out |= is_split
    selected &= ~is_held_out
    negatives, negatives_held_out = without_held_out(groups.group_ids, without_contradictions(groups), is_held_out)
    pairs, negatives = select_pairs(read, negatives, selected, folder / "train.arrow")
    check_hardness(settings.hardness, settings.num_hard_negatives, pairs)  # no selected pair may have negatives
    batch_plan, facts = plan_batches(plan_config(settings, pairs), pairs, groups.group_ids[selected], negatives, folder)
    non_minable = folder / "non_minable.npy"
    np.save(non_minable, np.isin(groups.joint_positives, groups.joint_relevant)[selected])
    batch_plan = replace(batch_plan, non_minable=non_minable)
    content = audit(read, pairs, groups, leaks, eval_sets)
    content |= {"negatives_held_out": negatives_held_out, "batches": facts}
    return Prepared(prepared_settings(settings), read, pairs, batch_plan, eval_sets, content, selection_split)


def plan_config(settings: Settings, pairs: Pairs) -> PlanConfig:
    """The settings that decide the batches."""
    sources = tuple(SourceShare(source.rows, source.weight) for source in pairs.sources)
    return PlanConfig(settings.batch_size, sources, settings.seed, settings.epochs, settings.max_steps)
