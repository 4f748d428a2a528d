"""Weights & Biases: the run's id is ours; its config is the settings, the page is a file of the run."""

import os
from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from typing import Any

import wandb

from mnrl_job.tracking.tracked import TrackedRun, numbers, verdict

PROJECT = "mnrl-job"
DEFAULTS = {
    "WANDB_PROJECT": PROJECT,
    "WANDB_RESUME": "allow",
    "WANDB_INIT_TIMEOUT": "20",
    "WANDB_CONSOLE": "off",
    "WANDB_SILENT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_ERROR_REPORTING": "false",
}
# These would have the trainer's callback hook into the model, or upload it: the model is published by the run itself.
FIXED = {"WANDB_WATCH": "false", "WANDB_LOG_MODEL": "false"}


class WandbRun:
    """A run in the project that `WANDB_PROJECT` names; with `WANDB_MODE=offline` a folder to sync later."""

    def begin(self, run: TrackedRun) -> str:
        own = {"WANDB_RUN_ID": run.id, "WANDB_NAME": run.id, "WANDB_DIR": str(run.wandb_folder.parent)}
        caches = dict.fromkeys(("WANDB_CACHE_DIR", "WANDB_DATA_DIR"), str(run.scratch / "wandb-cache"))
        for name, value in (DEFAULTS | own | caches).items():
            os.environ.setdefault(name, value)
        os.environ.update(FIXED)
        before = any((Path(os.environ["WANDB_DIR"]) / "wandb").glob(f"offline-run-*-{os.environ['WANDB_RUN_ID']}"))
        self._run = wandb.init(config=run.settings)
        self.is_new = not before and not self._run.resumed
        return self._run.url or "offline"

    def attach(self, content: Mapping[str, Any], page: Path) -> None:
        self._run.summary.update(dict(numbers(content)) | verdict(content))
        file = copyfile(page, Path(self._run.dir) / page.name)
        self._run.save(str(file), base_path=self._run.dir, policy="end")

    def leave(self, passed: bool | None) -> None:
        self._run.finish(exit_code=int(passed is False))
