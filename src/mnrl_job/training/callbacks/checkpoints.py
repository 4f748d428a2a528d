"""Checkpoints of a training: saved when any rank asks for one, valid once their manifest is written."""

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
# The first checkpoint is saved after this time even if the interval is longer: it shows early whether saving and
# uploading work, and how long they take. The last one too, in case evaluation or publishing is interrupted.
WORTH_SAVING_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class CheckpointSpec:
    """What checkpoints contain besides the trainer's state, and the one to `resume` from.

    A resumed run must have the same `identity`; `extra_files` are copied into each checkpoint.
    """

    identity: dict[str, Any]
    extra_files: tuple[Path, ...]
    resume: Path | None

    def resumed_totals(self) -> Totals:
        return read_record(self.resume / TOTALS, Totals) if self.resume else Totals()


class Checkpoints(TrainerCallback):
    """Has the trainer save weights, optimizer, scheduler, scaler and random states, and adds the files of the spec.

    `totals` are collective. `best` evaluates the model after a step; a stop does not wait for it.
    """

    def __init__(
        self,
        interval: Interval,
        spec: CheckpointSpec,
        votes: StepVotes,
        totals: Callable[[], Totals],
        best: BestModelCallback | None = None,
    ) -> None:
        self._interval = interval
        self._spec = spec
        self._votes = votes
        self._totals = totals
        self._best = best
        self._saved = self._started = time.monotonic()
        self._first = True
        self._step = self._last = 0
        votes.add("stop", preemption.stop_requested)
        votes.add("save", self._due)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step, self._last = state.global_step + 1, state.max_steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        stop = self._votes.passed("stop")
        control.should_save = self._votes.passed("save") or stop
        control.should_training_stop |= stop
        if control.should_save:
            self._started = time.monotonic()

    def _due(self) -> bool:
        elapsed = time.monotonic() - self._saved
        if self._step == self._last:
            due = elapsed > WORTH_SAVING_SECONDS
        else:
            due = self._interval.due(self._step, elapsed) or (self._first and elapsed > WORTH_SAVING_SECONDS)
        if self._best and self._best.due(self._step, self._last):
            due |= elapsed > WORTH_SAVING_SECONDS
        return due

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        totals = self._totals()
        # Every rank has written its random state on its own machine.
        local = folder.glob(f"rng_state_{PartialState().process_index}.pth")
        random_states = gather_object([(path.name, path.read_bytes()) for path in local])
        if state.is_world_process_zero:
            for name, random_state in random_states:
                (folder / name).write_bytes(random_state)
            write_record(folder / TOTALS, totals)
            for path in filter(Path.exists, self._spec.extra_files):
                copyfile(path, folder / path.name)
            write_manifest(folder, self._spec.identity | {"step": state.global_step, "total_steps": state.max_steps})
        self._first, self._saved = False, time.monotonic()
        heartbeat(save_seconds=round(self._saved - self._started, 3))
