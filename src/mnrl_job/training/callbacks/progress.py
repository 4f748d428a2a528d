"""Progress one can watch: a bar on a terminal, log lines elsewhere, and `training_log.jsonl` for the run's record."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mnrl_job.batching.planning import Plan
from mnrl_job.embedding.packing import to_host
from mnrl_job.system.heartbeat import enter_phase, heartbeat
from mnrl_job.system.json_text import dumps
from mnrl_job.system.logs import log, shows_progress, warn
from mnrl_job.system.phases import Phase
from mnrl_job.training.callbacks.divergence import DivergenceMonitor
from mnrl_job.training.data_order_digest import data_order_digest
from mnrl_job.training.losses.embedding_stats import CollapseDetector, EmbeddingStats, on_host
from mnrl_job.training.losses.mnrl import GlobalBatchLoss

SECONDS_BETWEEN_LINES = 10.0
# The host has to wait for the device to read how the training goes, so it seldom does.
SECONDS_BETWEEN_READINGS = 1.0


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """A step that is to be logged, whose numbers are still on the device.

    Attributes:
        step: its number, from 1.
        epoch: as the trainer counts.
        learning_rate: of the step.
        losses: of so many steps the loss is the sum.
        seconds: of this attempt's training until then.
        memory_bytes: taken then.
        numbers: `loss`, the mean over all rows, and if there are such `grad_norm` and the `measured` embeddings.
    """

    step: int
    epoch: float
    learning_rate: float
    losses: int
    seconds: float
    memory_bytes: int
    numbers: dict[str, torch.Tensor]


class Progress(TrainerCallback):
    """Follows the trainer. `loss` is the last loss logged, the mean over all rows; `digest` that of the rows so far.

    Steps are logged some time after they were made: `keep` takes their numbers, `read` brings all to the host at once.

    Args:
        path: of the training log.
        plan: the rows of each step.
        loss: knows the rows and the loss of each step that was made.
        divergence: judges them.
        shows: whether this is the rank that tells.
    """

    def __init__(
        self, path: Path, plan: Plan, loss: GlobalBatchLoss, divergence: DivergenceMonitor, shows: bool
    ) -> None:
        self.loss = math.nan
        self.digest = ""
        self._loss = loss
        self._path = path
        self._plan = plan
        self._divergence = divergence
        self._shows = shows
        self._alarm = CollapseDetector()
        self._verdicts: list[tuple[int, str]] = []
        self._began = self._said = self._stepped = self._read = time.monotonic()
        self._resumed_at = self._judged = 0
        self._kept: list[LoggedStep] = []
        self._before = 0.0
        self._bar: tqdm[Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._began = self._said = self._stepped = self._read = time.monotonic()
        self._resumed_at = self._judged = state.global_step
        self.digest = data_order_digest(self._plan[: state.global_step])
        # Of a run that goes on from its last step nothing more is logged.
        self.loss = next((float(one["loss"]) for one in reversed(state.log_history) if "loss" in one), self.loss)
        enter_phase(Phase.TRAIN, step=state.global_step, total_steps=len(self._plan))
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

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.monotonic()
        heartbeat(
            step=state.global_step, step_seconds=round(now - self._stepped, 3), eta_seconds=self._eta(state.global_step)
        )
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def collapse(self, step: int) -> str | None:
        """What was wrong with the embeddings at a step, see `CollapseDetector`; known on the rank that tells."""
        return next((verdict for at, verdict in reversed(self._verdicts) if at <= step), None)

    def keep(
        self, state: TrainerState, losses: int, loss: torch.Tensor, grad_norm: torch.Tensor | None, learning_rate: float
    ) -> None:
        """Log the step just made, once its numbers are read."""
        numbers = {"loss": loss, "grad_norm": grad_norm, "measured": self._loss.measured}
        self._loss.measured = None
        memory = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else psutil.Process().memory_info().rss
        seconds = time.monotonic() - self._began
        there = {name: number for name, number in numbers.items() if number is not None}
        step = state.global_step
        self._kept.append(LoggedStep(step, state.epoch, learning_rate, losses, seconds, memory, there))

    def due(self, step: int) -> bool:
        """Whether the numbers kept are to be read."""
        return step == len(self._plan) or time.monotonic() - self._read >= SECONDS_BETWEEN_READINGS

    def read(self) -> Iterator[tuple[LoggedStep, dict[str, float]]]:
        """Bring what was kept to the host, look at all steps made since the last time, and write the log.

        Yields:
            Each step that is logged, and what the trainer's callbacks are told of it.

        Raises:
            Diverged: the loss of a step is not finite, or it exploded.
        """
        kept, self._kept = self._kept, []
        rows, losses = self._loss.take_consumed()
        if not rows:
            return
        found = to_host({"rows": list(rows), "losses": torch.stack(losses), "kept": [one.numbers for one in kept]})
        batches, values = [each.numpy() for each in found["rows"]], found["losses"].tolist()
        for one, numbers in zip(kept, found["kept"], strict=True):
            count = one.step - self._judged
            self._judge_steps(batches[:count], values[:count])
            del batches[:count], values[:count]
            logs = {"loss": numbers["loss"].item() / one.losses}
            if "grad_norm" in numbers:
                logs["grad_norm"] = numbers["grad_norm"].item()
            self._log(one, logs, on_host(numbers["measured"]) if "measured" in numbers else None)
            yield one, logs | {"learning_rate": one.learning_rate}
        self._judge_steps(batches, values)
        self._read = time.monotonic()

    def _judge_steps(self, batches: list[NDArray[np.int64]], losses: list[float]) -> None:
        """Look at the steps that follow the last one looked at."""
        self._judged += len(losses)
        self.digest = data_order_digest(batches, self.digest)
        self._divergence.update(self._judged, batches, losses)

    def _keep_lines(self, step: int) -> None:
        """Of the log of the attempt this one goes on from, the lines up to its checkpoint."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self._path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        for line in map(json.loads, kept):
            self._before = line["seconds"]
            if "anisotropy" in line:
                self._judge(
                    line["step"], EmbeddingStats(**{one.name: line[one.name] for one in fields(EmbeddingStats)})
                )

    def _eta(self, step: int) -> int:
        """Seconds of training still to come, as fast as since this attempt began."""
        spent = time.monotonic() - self._began
        return round(spent / (step - self._resumed_at) * (len(self._plan) - step))

    def _log(self, logged: LoggedStep, logs: dict[str, float], checks: EmbeddingStats | None) -> None:
        self.loss = logs["loss"]
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{self.loss:.4f}")
        if self._shows:
            self._write(logged, logs.get("grad_norm"), checks)

    def _write(self, logged: LoggedStep, grad_norm: float | None, checks: EmbeddingStats | None) -> None:
        step, pairs = logged.step, (logged.step - self._resumed_at) * self._plan.shape[1]
        line = {
            "step": step,
            "total_steps": len(self._plan),
            "loss": self.loss,
            "learning_rate": logged.learning_rate,
            "grad_norm": grad_norm,
            "pairs_per_second": round(pairs / max(logged.seconds, 1e-9), 2),
            "seconds": round(self._before + logged.seconds, 3),
            "memory_bytes": logged.memory_bytes,
            "rows_digest": self.digest,
            **(self._look_at_embeddings(step, checks) if checks else {}),
        }
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(dumps(line) + "\n")
        memory = logged.memory_bytes if torch.cuda.is_available() else None
        heartbeat(loss=self.loss, pairs_per_second=line["pairs_per_second"], gpu_memory_bytes=memory)
        if not shows_progress() and time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            eta = self._eta(step)
            told = f"step {step} of {len(self._plan)}, loss {self.loss:.4f}, {eta} s to go"
            log(told, **line, eta_seconds=eta, gpu_memory_bytes=memory)

    def _look_at_embeddings(self, step: int, checks: EmbeddingStats) -> dict[str, Any]:
        """What the batch of a step looked like; says so once where the embeddings have become useless."""
        alarmed = any(verdict for _, verdict in self._verdicts)
        collapse = self._judge(step, checks)
        if collapse and not alarmed:
            warn(f"the embeddings collapse: {collapse}; lower MNRL_LEARNING_RATE, or look at the training pairs")
        return asdict(checks) | {"collapse": collapse}

    def _judge(self, step: int, checks: EmbeddingStats) -> str | None:
        collapse = self._alarm.update(checks)
        if collapse is not None:
            self._verdicts.append((step, collapse))
        return collapse
