"""Progress one can watch: a bar on a terminal, log lines elsewhere, and `training_log.jsonl` for the run's record."""

import json
import math
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mnrl_job.json_text import dumps
from mnrl_job.runtime.heartbeat import beat, begin
from mnrl_job.runtime.logs import log, shows_progress, warn
from mnrl_job.training.batches import Plan
from mnrl_job.training.checks import Checks, CollapseAlarm, on_host
from mnrl_job.training.consumed import digest
from mnrl_job.training.divergence import Divergence
from mnrl_job.training.loss import GlobalBatchLoss

SECONDS_BETWEEN_LINES = 10.0


class Progress(TrainerCallback):
    """Follows the trainer. `loss` is the last loss logged, the mean over ranks; `digest` that of the rows so far.

    Args:
        path: of the training log.
        plan: the rows of each step.
        loss: knows the rows and the loss of each step that was made.
        divergence: judges them.
        shows: whether this is the rank that tells.
    """

    def __init__(self, path: Path, plan: Plan, loss: GlobalBatchLoss, divergence: Divergence, shows: bool) -> None:
        self.loss = math.nan
        self.digest = ""
        self._loss = loss
        self._path = path
        self._plan = plan
        self._divergence = divergence
        self._shows = shows
        self._alarm = CollapseAlarm()
        self._verdicts: list[tuple[int, str]] = []
        self._began = self._said = self._stepped = time.monotonic()
        self._resumed_at = 0
        self._before = 0.0
        self._bar: tqdm[Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._began = self._said = self._stepped = time.monotonic()
        self._resumed_at = state.global_step
        self.digest = digest(self._plan[: state.global_step])
        # Of a run that goes on from its last step nothing more is logged.
        self.loss = next((float(one["loss"]) for one in reversed(state.log_history) if "loss" in one), self.loss)
        begin("train", step=state.global_step, of=len(self._plan))
        if self._shows:
            self._keep_lines(state.global_step)
            hidden = not shows_progress()
            total = len(self._plan)
            self._bar = tqdm(total=total, initial=state.global_step, desc="training", unit="step", disable=hidden)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._stepped = time.monotonic()
        step = state.global_step + 1
        is_logged = step == 1 or step % state.logging_steps == 0  # as the trainer decides when the step is over
        self._loss.watched = self._shows and is_logged

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
        self.take_consumed(state.global_step)
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{self.loss:.4f}")
        if self._shows:
            self._write(state.global_step, float(logs["learning_rate"]), logs.get("grad_norm"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.monotonic()
        beat(
            step=state.global_step, step_seconds=round(now - self._stepped, 3), eta_seconds=self._eta(state.global_step)
        )
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.take_consumed(state.global_step)
        if self._bar is not None:
            self._bar.close()

    def collapse(self, step: int) -> str | None:
        """What was wrong with the embeddings at a step, see `CollapseAlarm`; known on the rank that tells."""
        return next((verdict for at, verdict in reversed(self._verdicts) if at <= step), None)

    def take_consumed(self, step: int) -> None:
        """Look at the steps made since the last time; seldom, because it makes the host wait for the device.

        Raises:
            Diverged: the loss of one is not finite, or it exploded.
        """
        rows, losses = self._loss.take_consumed()
        batches = [each.cpu().numpy() for each in rows]
        self.digest = digest(batches, self.digest)
        self._divergence.look(step, batches, torch.stack(losses).tolist() if losses else [])

    def _keep_lines(self, step: int) -> None:
        """Of the log of the attempt this one goes on from, the lines up to its checkpoint."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self._path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        for line in map(json.loads, kept):
            self._before = line["seconds"]
            if "anisotropy" in line:
                self._judge(line["step"], Checks(**{one.name: line[one.name] for one in fields(Checks)}))

    def _eta(self, step: int) -> int:
        """Seconds of training still to come, as fast as since this attempt began."""
        spent = time.monotonic() - self._began
        return round(spent / (step - self._resumed_at) * (len(self._plan) - step))

    def _write(self, step: int, learning_rate: float, grad_norm: float | None) -> None:
        seconds = time.monotonic() - self._began
        on_gpu = torch.cuda.is_available()
        memory = torch.cuda.max_memory_reserved() if on_gpu else psutil.Process().memory_info().rss
        line = {
            "step": step,
            "of": len(self._plan),
            "loss": self.loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "pairs_per_second": round((step - self._resumed_at) * self._plan.shape[1] / max(seconds, 1e-9), 2),
            "seconds": round(self._before + seconds, 3),
            "memory_bytes": memory,
            "rows_digest": self.digest,
            **self._look_at_embeddings(step),
        }
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(dumps(line) + "\n")
        beat(loss=self.loss, pairs_per_second=line["pairs_per_second"], gpu_memory_bytes=memory if on_gpu else None)
        if not shows_progress() and time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            eta = self._eta(step)
            told = f"step {step} of {len(self._plan)}, loss {self.loss:.4f}, {eta} s to go"
            log(told, **line, eta_seconds=eta, gpu_memory_bytes=memory if on_gpu else None)

    def _look_at_embeddings(self, step: int) -> dict[str, Any]:
        """What the batch just trained on looked like; says so once where its embeddings have become useless."""
        if self._loss.measured is None:
            return {}
        checks, self._loss.measured = on_host(self._loss.measured), None
        alarmed = any(verdict for _, verdict in self._verdicts)
        collapse = self._judge(step, checks)
        if collapse and not alarmed:
            warn(f"the embeddings collapse: {collapse}; lower MNRL_LEARNING_RATE, or look at the training pairs")
        return asdict(checks) | {"collapse": collapse}

    def _judge(self, step: int, checks: Checks) -> str | None:
        collapse = self._alarm.look(checks)
        if collapse is not None:
            self._verdicts.append((step, collapse))
        return collapse
