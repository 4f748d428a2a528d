"""From the pairs as they were read to what workers train on: groups, no leaks, a holdout, the batch plan, the audit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.read_evalset import write_evalset
from mnrl_job.data.tables import read_table, write_table
from mnrl_job.deduplication.audit import Leaks, audit
from mnrl_job.deduplication.groups import Groups, find_groups, without_contradictions
from mnrl_job.deduplication.holdout import hold_out, spare_held_out
from mnrl_job.deduplication.leakage import find_leaks, judged_pairs
from mnrl_job.deduplication.text_quality import examples
from mnrl_job.errors import DataError, SettingsError
from mnrl_job.pipeline.plan_batches import lay_out
from mnrl_job.runs.attempt import Attempt
from mnrl_job.system.logs import log, warn

HELD_OUT = "holdout"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the workers get, and what the audit says."""

    pairs: Pairs
    batching: BatchPlan
    eval_sets: tuple[EvalSet, ...]
    audit: dict[str, Any]


def prepare(
    settings: Settings, attempt: Attempt, read: Pairs, eval_sets: tuple[EvalSet, ...], workers: int
) -> Prepared:
    """Find what is the same, keep eval data out of training, lay out the batches.

    Raises:
        DataError: pairs stand in an eval set and `MNRL_LEAKAGE_POLICY` is `fail`, or nothing can be held out.
        SettingsError: the data cannot fill a batch.
    """
    check_workers(settings, workers)
    check_hardness(settings, read)
    found, leaks = compare_texts(settings, attempt, read, eval_sets)
    kept = np.ones(read.rows, dtype=bool)
    if leaks.policy == "remove":
        kept[leaks.all] = False
    negatives, spared = without_contradictions(found), 0
    if not eval_sets:
        eval_sets = hold_some_out(settings, attempt, read, found, kept)
        negatives, spared = spare_held_out(found.groups, negatives, ~kept)
    pairs, negatives = keep(read, negatives, kept, attempt)
    check_hardness(settings, pairs)  # those that had negatives may be gone
    batching, facts = lay_out(settings, attempt, pairs, found.groups[kept], negatives)
    if settings.num_hard_negatives:
        barred = attempt.scratch / "barred.npy"
        np.save(barred, np.isin(found.positives, found.relevant)[kept])
        batching = replace(batching, barred=barred)
    content = audit(read, pairs, found, leaks, eval_sets) | {"negatives_held_out": spared, "batches": facts}
    return Prepared(pairs, batching, eval_sets, content)


def check_workers(settings: Settings, workers: int) -> None:
    """Each worker needs a row of each global batch."""
    size = settings.batch_size
    if size < workers:
        raise SettingsError(
            f"MNRL_BATCH_SIZE={size} is less than the {workers} workers; "
            f"set it to {workers} or more, or run fewer workers (MNRL_NUM_PROCESSES)"
        )


def check_hardness(settings: Settings, pairs: Pairs) -> None:
    """Hard negatives can be weighed only where there are some."""
    given = "negatives" in pairs.columns or settings.num_hard_negatives
    if settings.hardness and settings.hardness.mode == "hard_negatives" and not given:
        raise SettingsError(
            f"MNRL_HARDNESS={settings.hardness}: the training pairs have no negatives; give some, mine some "
            f"(MNRL_NUM_HARD_NEGATIVES), or set MNRL_HARDNESS=in_batch_negatives:{settings.hardness.strength:g}"
        )


def compare_texts(
    settings: Settings, attempt: Attempt, read: Pairs, eval_sets: Sequence[EvalSet]
) -> tuple[Groups, Leaks]:
    """Number the texts, and find the pairs that stand in an eval set, too.

    Raises:
        DataError: there are such pairs and `MNRL_LEAKAGE_POLICY` is `fail`.
    """
    folder = attempt.scratch / "texts"
    folder.mkdir()
    judged = judged_pairs(eval_sets, folder / "judged.arrow")
    found = find_groups(read, judged.documents if judged else None, settings.near_duplicate_threshold, folder)
    if judged is None:
        return found, Leaks(settings.leakage_policy, {})
    marked = find_leaks(
        read, found.positives, judged, found.relevant, settings.near_duplicate_threshold, folder / "leaks"
    )
    leaks = Leaks(settings.leakage_policy, {one.name: rows for one, rows in zip(eval_sets, marked, strict=True)})
    if len(leaks.all):
        tell_leaks(leaks, read)
    return found, leaks


def tell_leaks(leaks: Leaks, read: Pairs) -> None:
    """Leaked pairs end the run or are worth a warning, as `MNRL_LEAKAGE_POLICY` says."""
    sets = ", ".join(f"{int(rows.sum())} in {name}" for name, rows in leaks.rows.items() if rows.any())
    told = f"{len(leaks.all)} of {read.rows} training pairs also stand in an eval set ({sets})"
    if leaks.policy == "fail":
        first = examples(read_table(read.path), leaks.all)[0]
        raise DataError(f"{told}, the first is {first['anchor']!r}; remove them, or set MNRL_LEAKAGE_POLICY=remove")
    consequence = "they are left out" if leaks.policy == "remove" else "the gain on it will look larger than it is"
    warn(f"{told}; {consequence}")


def hold_some_out(
    settings: Settings, attempt: Attempt, read: Pairs, found: Groups, kept: NDArray[np.bool_]
) -> tuple[EvalSet, ...]:
    """Take an eval set out of the pairs; `kept` loses its rows."""
    if not settings.holdout_ratio:
        warn("no eval data and MNRL_HOLDOUT_RATIO=0: this run cannot say whether the model became better")
        return ()
    held = hold_out(read, found.texts, found.groups, settings.holdout_ratio, settings.seed)
    kept &= ~held.rows
    folder = attempt.scratch / "eval" / HELD_OUT
    log(f"held out {int(held.rows.sum())} of {read.rows} pairs as eval set '{HELD_OUT}'")
    return (write_evalset(HELD_OUT, HELD_OUT, folder, held.queries, held.corpus, held.grades),)


def keep(read: Pairs, negatives: Ragged, kept: NDArray[np.bool_], attempt: Attempt) -> tuple[Pairs, Ragged]:
    """The pairs to train on and the groups of their negatives; written anew only where some are left out.

    Raises:
        DataError: none is left.
    """
    if kept.all():
        return read, negatives
    if not kept.any():
        raise DataError("every training pair also stands in an eval set; give other pairs, or MNRL_LEAKAGE_POLICY=keep")
    path = attempt.scratch / "train.arrow"
    negatives = negatives.of(np.flatnonzero(kept))
    columns = read.columns if len(negatives.values) else read.columns[:2]
    write_table(path, read_table(read.path).select(columns).filter(pa.array(kept)))
    bounds = np.cumsum([0, *(source.rows for source in read.sources)])
    sources = tuple(
        replace(source, rows=int(kept[start:stop].sum()))
        for source, (start, stop) in zip(read.sources, pairwise(bounds), strict=True)
    )
    return replace(read, path=path, columns=columns, rows=int(kept.sum()), sources=sources), negatives
