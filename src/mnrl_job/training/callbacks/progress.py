"""Training progress: a bar on a terminal, log lines elsewhere, and `training_log.jsonl` for the record."""

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
from mnrl_job.embedding.flat_buffer import to_host
from mnrl_job.system.heartbeat import enter_phase, heartbeat
from mnrl_job.system.json_text import dumps
from mnrl_job.system.logs import log, shows_progress, warn
from mnrl_job.system.phases import Phase
from mnrl_job.training.callbacks.divergence import DivergenceMonitor
from mnrl_job.training.data_order_digest import data_order_digest
from mnrl_job.training.losses.embedding_stats import CollapseDetector, EmbeddingStats, to_embedding_stats
from mnrl_job.training.losses.mnrl import GlobalBatchLoss

SECONDS_BETWEEN_LINES = 10.0
# Reading tensors synchronizes with the device, so they are read in bulk.
SECONDS_BETWEEN_FLUSHES = 1.0


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step to be logged, whose tensors are still on the device; `seconds` are of this attempt's training so far.

    `losses` is the number of steps whose losses are summed. `tensors` are `loss`, the mean over all rows, and if
    available `grad_norm` and embedding `stats`.
    """

    step: int
    epoch: float
    learning_rate: float
    losses: int
    seconds: float
    memory_bytes: int
    tensors: dict[str, torch.Tensor]


class Progress(TrainerCallback):
    """Logs the training. `loss` is the last loss logged, the mean over all rows; `digest` that of the rows so far.

    Steps are logged with a delay: `record` keeps their tensors, `flush` copies all of them to the host at once. The
    rank that `is_main` writes the logs.
    """

    def __init__(
        self, path: Path, plan: Plan, loss: GlobalBatchLoss, divergence: DivergenceMonitor, is_main: bool
    ) -> None:
        self.loss = math.nan
        self.digest = ""
        self._loss = loss
        self._path = path
        self._plan = plan
        self._divergence = divergence
        self._is_main = is_main
        self._detector = CollapseDetector()
        self._verdicts: list[tuple[int, str]] = []
        self._started = self._last_line = self._step_started = self._flushed = time.monotonic()
        self._resumed_at = self._checked = 0
        self._recorded: list[RecordedStep] = []
        self._seconds_before = 0.0
        self._bar: tqdm[Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = self._last_line = self._step_started = self._flushed = time.monotonic()
        self._resumed_at = self._checked = state.global_step
        self.digest = data_order_digest(self._plan[: state.global_step])
        # A run resumed after its last step logs no further loss.
        self.loss = next((float(entry["loss"]) for entry in reversed(state.log_history) if "loss" in entry), self.loss)
        enter_phase(Phase.TRAIN, step=state.global_step, total_steps=len(self._plan))
        if self._is_main:
            self._truncate_log(state.global_step)
            hidden = not shows_progress()
            total = len(self._plan)
            self._bar = tqdm(total=total, initial=state.global_step, desc="training", unit="step", disable=hidden)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step_started = time.monotonic()
        step = state.global_step + 1
        is_logged = step == 1 or step % state.logging_steps == 0  # as the trainer decides after the step
        self._loss.collect_stats = self._is_main and is_logged

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        seconds = round(time.monotonic() - self._step_started, 3)
        heartbeat(step=state.global_step, step_seconds=seconds, eta_seconds=self._eta(state.global_step))
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def collapse(self, step: int) -> str | None:
        """The verdict of the `CollapseDetector` at a step; known on the main rank."""
        return next((verdict for judged, verdict in reversed(self._verdicts) if judged <= step), None)

    def record(
        self, state: TrainerState, losses: int, loss: torch.Tensor, grad_norm: torch.Tensor | None, learning_rate: float
    ) -> None:
        """Log the step just trained at the next flush."""
        tensors = {"loss": loss, "grad_norm": grad_norm, "stats": self._loss.stats}
        self._loss.stats = None
        memory = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else psutil.Process().memory_info().rss
        seconds = time.monotonic() - self._started
        available = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        step = state.global_step
        self._recorded.append(RecordedStep(step, state.epoch, learning_rate, losses, seconds, memory, available))

    def due(self, step: int) -> bool:
        """Whether to flush after this step."""
        return step == len(self._plan) or time.monotonic() - self._flushed >= SECONDS_BETWEEN_FLUSHES

    def flush(self) -> Iterator[tuple[RecordedStep, dict[str, float]]]:
        """Copy recorded steps to the host, check the losses of all steps since the last flush, and write the log.

        Yields:
            Each recorded step, and the logs for the trainer's callbacks.

        Raises:
            Diverged: the loss of a step is not finite, or it exploded.
        """
        recorded, self._recorded = self._recorded, []
        rows, losses = self._loss.take_steps()
        if not rows:
            return
        on_device = {"rows": list(rows), "losses": torch.stack(losses), "steps": [step.tensors for step in recorded]}
        on_host = to_host(on_device)
        batches, values = [batch.numpy() for batch in on_host["rows"]], on_host["losses"].tolist()
        for step, tensors in zip(recorded, on_host["steps"], strict=True):
            count = step.step - self._checked
            self._check(batches[:count], values[:count])
            del batches[:count], values[:count]
            logs = {"loss": tensors["loss"].item() / step.losses}
            if "grad_norm" in tensors:
                logs["grad_norm"] = tensors["grad_norm"].item()
            self._log(step, logs, to_embedding_stats(tensors["stats"]) if "stats" in tensors else None)
            yield step, logs | {"learning_rate": step.learning_rate}
        self._check(batches, values)
        self._flushed = time.monotonic()

    def _check(self, batches: list[NDArray[np.int64]], losses: list[float]) -> None:
        self._checked += len(losses)
        self.digest = data_order_digest(batches, self.digest)
        self._divergence.update(self._checked, batches, losses)

    def _truncate_log(self, step: int) -> None:
        """Keep the log of earlier attempts up to the checkpoint's step, and replay its embedding statistics."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        lines = [line for line in lines if json.loads(line)["step"] <= step]
        self._path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        for entry in map(json.loads, lines):
            self._seconds_before = entry["seconds"]
            if "anisotropy" in entry:
                stats = EmbeddingStats(**{field.name: entry[field.name] for field in fields(EmbeddingStats)})
                self._detect_collapse(entry["step"], stats)

    def _eta(self, step: int) -> int:
        """Remaining seconds of training, at the average speed of this attempt."""
        elapsed = time.monotonic() - self._started
        return round(elapsed / (step - self._resumed_at) * (len(self._plan) - step))

    def _log(self, recorded: RecordedStep, logs: dict[str, float], stats: EmbeddingStats | None) -> None:
        self.loss = logs["loss"]
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{self.loss:.4f}")
        if not self._is_main:
            return
        step, pairs = recorded.step, (recorded.step - self._resumed_at) * self._plan.shape[1]
        line = {
            "step": step,
            "total_steps": len(self._plan),
            "loss": self.loss,
            "learning_rate": recorded.learning_rate,
            "grad_norm": logs.get("grad_norm"),
            "pairs_per_second": round(pairs / max(recorded.seconds, 1e-9), 2),
            "seconds": round(self._seconds_before + recorded.seconds, 3),
            "memory_bytes": recorded.memory_bytes,
            "rows_digest": self.digest,
            **(self._stats_entry(step, stats) if stats else {}),
        }
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(dumps(line) + "\n")
        memory = recorded.memory_bytes if torch.cuda.is_available() else None
        heartbeat(loss=self.loss, pairs_per_second=line["pairs_per_second"], gpu_memory_bytes=memory)
        if not shows_progress() and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            eta = self._eta(step)
            message = f"step {step} of {len(self._plan)}, loss {self.loss:.4f}, {eta} s left"
            log(message, **line, eta_seconds=eta, gpu_memory_bytes=memory)

    def _stats_entry(self, step: int, stats: EmbeddingStats) -> dict[str, Any]:
        """The statistics for the training log; warns at the first collapse."""
        warned = any(verdict for _, verdict in self._verdicts)
        collapse = self._detect_collapse(step, stats)
        if collapse and not warned:
            warn(f"the embeddings collapsed: {collapse}; lower MNRL_LEARNING_RATE, or check the training pairs")
        return asdict(stats) | {"collapse": collapse}

    def _detect_collapse(self, step: int, stats: EmbeddingStats) -> str | None:
        collapse = self._detector.update(stats)
        if collapse is not None:
            self._verdicts.append((step, collapse))
        return collapse
