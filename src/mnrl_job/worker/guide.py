"""The guide model of a worker, see `training/guide.py`."""

import time

import numpy as np
from accelerate import PartialState

from mnrl_job.embedding.loading import load
from mnrl_job.embedding.precision import choose_precision
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system import logs
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.phases import Phase
from mnrl_job.training.guide import FOLDER, embed_by_guide


def run_guide_model(task: WorkerTask) -> None:
    """Embed the texts of the batches with the guide model, if there is one, and unload it."""
    if not task.guide or task.pairs is None or task.batch_plan is None:
        return
    settings = task.settings
    guide = load(task.guide, "MNRL_GUIDE_MODEL", settings.guide_model).model
    enter_phase(Phase.EMBED_BY_GUIDE)
    started = time.perf_counter()
    plan = np.load(task.batch_plan.plan, mmap_mode="r")[: settings.max_steps]
    precision = choose_precision(settings.precision, PartialState().device)
    embed_by_guide(guide, task.pairs, plan, precision, task.scratch / FOLDER)
    logs.log(f"embedded the training texts with {settings.guide_model}", seconds=time.perf_counter() - started)
