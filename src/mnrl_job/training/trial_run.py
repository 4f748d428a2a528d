"""The data of the first steps alone, so that trying them takes no longer where there are more rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from accelerate import PartialState

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import read_groups, read_negatives, read_table, write_labels, write_table
from mnrl_job.system.local_rank import is_local_main_process


def first_steps(pairs: Pairs, batching: BatchPlan, steps: int, folder: Path) -> tuple[Pairs, BatchPlan]:
    """The rows of the first steps, numbered anew, and their plan; the same batches as in the whole run.

    Args:
        pairs: the training pairs.
        batching: their groups, and the plan of the run.
        steps: how many.
        folder: for these files, one of this machine; every rank must ask.
    """
    plan = np.load(batching.plan, mmap_mode="r")[:steps]
    rows, numbers = np.unique(plan, return_inverse=True)
    negatives = read_negatives(batching.labels).select(rows)
    columns = pairs.columns if len(negatives.values) else pairs.columns[:2]
    paths = [folder / name for name in ("pairs.arrow", "labels.arrow", "plan.npy", "barred.npy")]
    if is_local_main_process():
        folder.mkdir()
        chosen = np.zeros(pairs.rows, dtype=bool)
        chosen[rows] = True
        write_table(paths[0], read_table(pairs.path).select(columns).filter(pa.array(chosen)))
        write_labels(paths[1], read_groups(batching.labels)[rows], negatives if "negatives" in columns else None)
        np.save(paths[2], numbers.reshape(plan.shape))
        if batching.barred:
            np.save(paths[3], np.load(batching.barred)[rows])
    PartialState().wait_for_everyone()
    few = replace(batching, labels=paths[1], plan=paths[2], steps=len(plan), epochs=(0,))
    barred = paths[3] if batching.barred else None
    return replace(pairs, path=paths[0], columns=columns, rows=len(rows)), replace(few, barred=barred)
