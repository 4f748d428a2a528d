"""Checkpoints of a training: made when all ranks agree that one is due, and valid only once sealed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mnrl_job.config.setting_types import Interval
from mnrl_job.storage.manifest import write_manifest
from mnrl_job.system import preemption
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.record_files import read_record, write_record
from mnrl_job.training.callbacks.best_model import BestModelCallback
from mnrl_job.training.distributed import StepVotes
from mnrl_job.training.losses.mnrl import Totals

TOTALS = "totals.json"
# Work worth a checkpoint. The first one is made after it, however seldom they are wanted: it shows early whether saving
# and uploading work, and how long they take. The last one is made for it, in case evaluating or publishing is stopped.
WORTH_SAVING_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class CheckpointSpec:
    """What checkpoints hold beside the trainer's state.

    Attributes:
        facts: what a run that goes on from one must have in common with this run.
        carried: files that go along, by their names.
        resume: the folder of the checkpoint to go on from.
    """

    facts: dict[str, Any]
    extra_files: tuple[Path, ...]
    resume: Path | None

    def resumed_totals(self) -> Totals:
        """What was spent up to the checkpoint."""
        return read_record(self.resume / TOTALS, Totals) if self.resume else Totals()


class Checkpoints(TrainerCallback):
    """Has the trainer save weights, optimizer, schedule, scaler and random states, and adds what it does not know.

    Args:
        every: how often.
        keeping: what goes along.
        wishes: tell the other ranks in each step.
        totals: what was spent so far; asked on every rank.
        best: scores the model after a step, for which a stop does not wait.
    """

    def __init__(
        self,
        every: Interval,
        keeping: CheckpointSpec,
        wishes: StepVotes,
        totals: Callable[[], Totals],
        best: BestModelCallback | None = None,
    ) -> None:
        self._every = every
        self._keeping = keeping
        self._wishes = wishes
        self._totals = totals
        self._best = best
        self._saved = self._began = time.monotonic()
        self._first = True
        self._step = self._last = 0
        wishes.add("stop", preemption.stop_requested)
        wishes.add("save", self._due)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step, self._last = state.global_step + 1, state.max_steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        stop = self._wishes.granted("stop")
        control.should_save = self._wishes.granted("save") or stop
        control.should_training_stop |= stop
        if control.should_save:
            self._began = time.monotonic()

    def _due(self) -> bool:
        """Whether a checkpoint is to be made after this step."""
        since = time.monotonic() - self._saved
        if self._step == self._last:
            due = since > WORTH_SAVING_SECONDS
        else:
            due = self._every.due(self._step, since) or (self._first and since > WORTH_SAVING_SECONDS)
        if self._best and self._best.due(self._step, self._last):
            due |= since > WORTH_SAVING_SECONDS
        return due

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        totals = self._totals()
        # Every rank has written its random state, on its own machine.
        own = folder.glob(f"rng_state_{PartialState().process_index}.pth")
        random_states = gather_object([(path.name, path.read_bytes()) for path in own])
        if state.is_world_process_zero:
            for name, content in random_states:
                (folder / name).write_bytes(content)
            write_record(folder / TOTALS, totals)
            for path in filter(Path.exists, self._keeping.extra_files):
                copyfile(path, folder / path.name)
            write_manifest(folder, self._keeping.facts | {"step": state.global_step, "total_steps": state.max_steps})
        self._first, self._saved = False, time.monotonic()
        heartbeat(save_seconds=round(self._saved - self._began, 3))
