"""Evaluation during training: the weights with the best score are kept, and training may stop early."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mnrl_job.config.setting_types import Interval
from mnrl_job.errors import InternalError
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.local_rank import is_local_main_process
from mnrl_job.system.logs import log
from mnrl_job.system.phases import Phase
from mnrl_job.system.record_files import read_record, write_record
from mnrl_job.training.distributed import any_rank
from mnrl_job.training.results import StepScore

SCORES = "scores.json"
WEIGHTS = "best.safetensors"


@dataclass(frozen=True, slots=True)
class EvalSchedule:
    """How often to evaluate, and after how many evaluations without improvement to stop; None for never."""

    interval: Interval
    patience: int | None = None


class BestModelCallback(TrainerCallback):
    """Evaluates the model during training and stops it when patience is exhausted.

    A checkpoint of the same step is saved first, so that a resumed run can repeat the evaluation.

    Args:
        model: in training; its trained weights are kept.
        schedule: evaluation interval and patience.
        score: evaluates the model, higher is better; called on all ranks, with the same result.
        folder: on each machine, for the best weights and the scores.
        resume: folder of a checkpoint whose scores are continued.
        on_score: called with each score.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        schedule: EvalSchedule,
        score: Callable[[], float],
        folder: Path,
        resume: Path | None = None,
        on_score: Callable[[float], None] = lambda _score: None,
    ) -> None:
        self.seconds = 0.0
        self._model = model
        self._schedule = schedule
        self._score = score
        self._on_score = on_score
        self._folder = folder
        self._last_evaluated = time.monotonic()
        resumed = resume is not None and (resume / SCORES).exists()
        self.scores = read_record(resume / SCORES, tuple[StepScore, ...]) if resume and resumed else ()

    @property
    def best(self) -> StepScore:
        """The first of the highest scores."""
        return max(self.scores, key=lambda score: score.value)

    @property
    def patience_exhausted(self) -> bool:
        if self._schedule.patience is None or not self.scores:
            return False
        return len(self.scores) - 1 - self.scores.index(self.best) >= self._schedule.patience

    def due(self, step: int, last: int) -> bool:
        """Whether to evaluate after this step; always after the last one."""
        if self.scores and self.scores[-1].step == step:
            return False
        return step == last or self._schedule.interval.due(step, time.monotonic() - self._last_evaluated)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:  # the run may have been stopped between checkpoint and evaluation
            self.evaluate_if_due(state.global_step, state.max_steps)
            control.should_training_stop |= self.patience_exhausted

    def evaluate_if_due(self, step: int, last: int) -> None:
        """Evaluate if due on any rank. Collective."""
        if any_rank(self.due(step, last)):
            self.score(step, last)

    def score(self, step: int, last: int) -> None:
        """Evaluate at most once per step, and keep the weights if they are the best so far. Collective."""
        if self.scores and self.scores[-1].step == step:
            return
        started = time.monotonic()
        enter_phase(Phase.EVALUATE_DURING)
        self.scores = (*self.scores, StepScore(step, self._score()))
        is_best = self.best.step == step
        if is_local_main_process():
            if is_best:
                save_file(self._weights(), self._folder / WEIGHTS)
            write_record(self._folder / SCORES, self.scores)
        self._last_evaluated = time.monotonic()
        self.seconds += self._last_evaluated - started
        comparison = "best so far" if is_best else f"best so far {self.best.value:.4f} at step {self.best.step}"
        log(f"step {step} of {last}: score {self.scores[-1].value:.4f}, {comparison}")
        enter_phase(Phase.TRAIN, step=step, total_steps=last)
        self._on_score(self.scores[-1].value)

    @torch.no_grad()
    def restore(self) -> None:
        """Load the best weights into the model. Called on every rank.

        Raises:
            InternalError: they cannot be read, or do not fit the model.
        """
        try:
            weights = load_file(self._folder / WEIGHTS)
            for name, weight in self._trained().items():
                weight.copy_(weights[name])
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise InternalError(
                f"the best weights, of step {self.best.step}, cannot be loaded: {type(error).__name__}: {error}"
            ) from error

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: weight for name, weight in self._model.named_parameters() if weight.requires_grad}

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().cpu().contiguous() for name, weight in self._trained().items()}
