"""Progress one can watch: a bar on a terminal, log lines elsewhere, and `training_log.jsonl` for the run's record."""

import json
import math
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mnrl_job.errors import Diverged
from mnrl_job.runtime.logs import log, shows_progress
from mnrl_job.training.batches import Plan
from mnrl_job.training.consumed import digest
from mnrl_job.training.loss import GlobalBatchLoss

SECONDS_BETWEEN_LINES = 10.0


class Progress(TrainerCallback):
    """Follows the trainer. `loss` is the last loss logged, the mean over ranks; `digest` that of the rows so far."""

    def __init__(self, path: Path, plan: Plan, loss: GlobalBatchLoss, shows: bool) -> None:
        self.loss = math.nan
        self.digest = ""
        self._loss = loss
        self._path = path
        self._plan = plan
        self._shows = shows
        self._began = self._said = time.monotonic()
        self._resumed_at = 0
        self._before = 0.0
        self._bar: tqdm[Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._began = self._said = time.monotonic()
        self._resumed_at = state.global_step
        self.digest = digest(self._plan[: state.global_step])
        if self._shows:
            self._keep_lines(state.global_step)
            hidden = not shows_progress()
            total = len(self._plan)
            self._bar = tqdm(total=total, initial=state.global_step, desc="training", unit="step", disable=hidden)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        self.loss = float(logs["loss"])
        self._take_consumed()
        if not math.isfinite(self.loss):
            raise Diverged(
                f"the loss became {self.loss} at step {state.global_step}; lower MNRL_LEARNING_RATE "
                f"({args.learning_rate:g}), or use MNRL_PRECISION=fp32"
            )
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{self.loss:.4f}")
        if self._shows:
            self._write(state.global_step, float(logs["learning_rate"]), logs.get("grad_norm"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._take_consumed()
        if self._bar is not None:
            self._bar.close()

    def _keep_lines(self, step: int) -> None:
        """Of the log of the attempt this one goes on from, the lines up to its checkpoint."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self._path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._before = json.loads(kept[-1])["seconds"] if kept else 0.0

    def _take_consumed(self) -> None:
        """Seldom, because it makes the host wait for the device."""
        self.digest = digest((rows.cpu().numpy() for rows in self._loss.take_consumed()), self.digest)

    def _write(self, step: int, learning_rate: float, grad_norm: float | None) -> None:
        seconds = time.monotonic() - self._began
        line = {
            "step": step,
            "of": len(self._plan),
            "loss": self.loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "pairs_per_second": round((step - self._resumed_at) * self._plan.shape[1] / max(seconds, 1e-9), 2),
            "seconds": round(self._before + seconds, 3),
            "rows_digest": self.digest,
        }
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
        if not shows_progress() and time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            eta = round(seconds / (step - self._resumed_at) * (len(self._plan) - step))
            log(f"step {step} of {len(self._plan)}, loss {self.loss:.4f}, {eta} s to go", **line, eta_seconds=eta)
