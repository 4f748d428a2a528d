"""The best weights of a training: the model is scored now and then, and the weights that scored best are kept."""

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
class StepScores:
    """The scores of a training, in order."""

    scores: tuple[StepScore, ...]


class BestModelCallback(TrainerCallback):
    """Scores the model in training, and says when it has not become better for long enough.

    A checkpoint of the same step is saved before, so that the score can be taken again by whoever goes on from there.

    Attributes:
        scores: by step, so far.
        seconds: spent on them by this attempt.

    Args:
        model: in training; what of it is trained is kept.
        every: how often.
        patience: how many scores in a row may be no better; None for any number.
        score: scores the model, higher is better; all ranks call it at once and get the same.
        folder: where each machine keeps the best weights and the scores.
        resume: a checkpoint's folder, whose scores are gone on with.
        tell: is told of each score.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        every: Interval,
        patience: int | None,
        score: Callable[[], float],
        folder: Path,
        resume: Path | None = None,
        tell: Callable[[float], None] = lambda _score: None,
    ) -> None:
        self.seconds = 0.0
        self._model = model
        self._every = every
        self._patience = patience
        self._score = score
        self._tell = tell
        self._folder = folder
        self._looked = time.monotonic()
        resumed = resume is not None and (resume / SCORES).exists()
        self.scores = read_record(resume / SCORES, StepScores).scores if resume and resumed else ()

    @property
    def best(self) -> StepScore:
        """The first of those that are highest."""
        return max(self.scores, key=lambda one: one.value)

    @property
    def patience_exhausted(self) -> bool:
        """Whether patience is at its end."""
        if self._patience is None or not self.scores:
            return False
        return len(self.scores) - 1 - self.scores.index(self.best) >= self._patience

    def due(self, step: int, last: int) -> bool:
        """Whether the model of this step is to be scored; that of the last step is in any case."""
        if self.scores and self.scores[-1].step == step:
            return False
        return step == last or self._every.due(step, time.monotonic() - self._looked)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:  # it may have been stopped between the checkpoint and the score
            self.evaluate_if_due(state.global_step, state.max_steps)
            control.should_training_stop |= self.patience_exhausted

    def evaluate_if_due(self, step: int, last: int) -> None:
        """Score the model if that is due on any rank; every rank must ask."""
        if any_rank(self.due(step, last)):
            self.score(step, last)

    def score(self, step: int, last: int) -> None:
        """Score the model once a step, and keep its weights if it is the best so far; every rank must ask."""
        if self.scores and self.scores[-1].step == step:
            return
        began = time.monotonic()
        enter_phase(Phase.EVALUATE_DURING)
        self.scores = (*self.scores, StepScore(step, self._score()))
        news = self.best.step == step
        if is_local_main_process():
            if news:
                save_file(self._weights(), self._folder / WEIGHTS)
            write_record(self._folder / SCORES, StepScores(self.scores))
        self._looked = time.monotonic()
        self.seconds += self._looked - began
        standing = "the best so far" if news else f"the best so far is {self.best.value:.4f} of step {self.best.step}"
        log(f"step {step} of {last}: scored {self.scores[-1].value:.4f}, {standing}")
        enter_phase(Phase.TRAIN, step=step, total_steps=last)
        self._tell(self.scores[-1].value)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model the best weights; every rank must ask.

        Raises:
            InternalError: they cannot be read, or are not the model's.
        """
        try:
            kept = load_file(self._folder / WEIGHTS)
            for name, weight in self._trained().items():
                weight.copy_(kept[name])
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise InternalError(
                f"the best weights, of step {self.best.step}, cannot be loaded: {type(error).__name__}: {error}"
            ) from error

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: weight for name, weight in self._model.named_parameters() if weight.requires_grad}

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().cpu().contiguous() for name, weight in self._trained().items()}
