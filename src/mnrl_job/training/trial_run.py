"""The data of the first steps alone, so that a trial run takes no longer on larger data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from accelerate import PartialState

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.data.tables import read_groups, read_negatives, read_table, write_labels, write_table
from mnrl_job.system.local_rank import is_local_main_process
from mnrl_job.training.inputs import TrainingData


def first_steps(data: TrainingData, steps: int, folder: Path) -> TrainingData:
    """The rows of the first steps, renumbered, in the same batches as in the full run, in `folder`. Collective."""
    pairs, batch_plan = data.pairs, data.batch_plan
    plan = np.load(batch_plan.plan, mmap_mode="r")[:steps]
    rows, renumbered = np.unique(plan, return_inverse=True)
    negatives = read_negatives(batch_plan.labels).select(rows)
    columns = pairs.columns if len(negatives.values) else pairs.columns[:2]
    paths = [folder / name for name in ("pairs.arrow", "labels.arrow", "plan.npy", "non_minable.npy")]
    if is_local_main_process():
        folder.mkdir()
        selected = np.zeros(pairs.rows, dtype=bool)
        selected[rows] = True
        write_table(paths[0], read_table(pairs.path).select(columns).filter(pa.array(selected)))
        write_labels(paths[1], read_groups(batch_plan.labels)[rows], negatives if "negatives" in columns else None)
        np.save(paths[2], renumbered.reshape(plan.shape))
        if batch_plan.non_minable:
            np.save(paths[3], np.load(batch_plan.non_minable)[rows])
    PartialState().wait_for_everyone()
    non_minable = paths[3] if batch_plan.non_minable else None
    return TrainingData(
        replace(pairs, path=paths[0], columns=columns, rows=len(rows)),
        BatchPlan(paths[1], paths[2], len(plan), non_minable=non_minable),
    )
