"""The training loop: Sentence Transformers' trainer over the planned batches."""

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from datasets import Dataset, concatenate_datasets
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from mnrl_job.errors import DeviceError, InternalError
from mnrl_job.records import Batching, Pairs, Training
from mnrl_job.settings import Settings
from mnrl_job.training.batches import Plan
from mnrl_job.training.consumed import digest
from mnrl_job.training.loss import ROWS_AT_ONCE_ON_CPU, GlobalBatchLoss
from mnrl_job.training.progress import Progress
from mnrl_job.training.sampler import PlannedBatches

Precision = Literal["fp32", "bf16", "fp16"]


def train(
    model: SentenceTransformer, settings: Settings, pairs: Pairs, batching: Batching, scratch: Path, staging: Path
) -> Training:
    """Fine-tune `model` in place with MultipleNegativesRankingLoss over the global batch.

    The loss is that of Henderson et al. 2017 (arXiv 1705.00652), section 4.4, on scaled cosine similarities.

    Args:
        model: trained in place, the same on every rank afterwards.
        settings: the run's.
        pairs: the training pairs as an Arrow file.
        batching: the labels of the pairs, and the plan: which rows meet in which step.
        scratch: folder for the trainer's own files.
        staging: folder where the first rank writes `training_log.jsonl`.

    Raises:
        Diverged: the loss became NaN or infinite.
        DeviceError: the precision wanted is not to be had here.
        InternalError: the rows trained on are not those of the plan.
    """
    trainer = PlannedTrainer(model, settings, pairs, batching, scratch, staging)
    loss, progress, plan = trainer.global_loss, trainer.progress, trainer.plan
    began = time.perf_counter()
    trainer.train()
    if progress.digest != digest(plan):
        raise InternalError(f"the rows trained on (digest {progress.digest}) are not the planned ones ({digest(plan)})")
    counts = torch.tensor([int(loss.tokens), loss.padded_tokens, int(loss.masked)], device=PartialState().device)
    tokens, padded_tokens, masked = reduce(counts, "sum").tolist()
    return Training(
        steps=len(plan),
        rows_used=len(np.unique(plan)),
        rows_digest=progress.digest,
        final_loss=progress.loss,
        negatives_per_anchor=settings.batch_size * (len(pairs.columns) - 1) - 1,
        masked_per_anchor=masked / plan.size,
        precision=trainer.precision,
        seconds=time.perf_counter() - began,
        tokens=tokens,
        padded_tokens=padded_tokens,
    )


def dataset(pairs: Pairs, batching: Batching) -> Dataset:
    """The texts and, in the column `label`, the row number and the groups of each pair; all mapped into memory."""
    columns = [Dataset.from_file(str(path)) for path in (pairs.path, batching.labels)]
    return concatenate_datasets(columns, axis=1)


def choose_precision(wanted: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """`auto` is bf16 on a GPU that has it, else fp32.

    Raises:
        DeviceError: where the device cannot do what is wanted.
    """
    on_gpu = device.type == "cuda"
    has_bf16 = not on_gpu or torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "auto":
        return "bf16" if on_gpu and has_bf16 else "fp32"
    if wanted == "bf16" and not has_bf16:
        raise DeviceError("MNRL_PRECISION=bf16: this GPU has no bf16; use fp16, fp32 or auto")
    if wanted == "fp16" and not on_gpu:
        raise DeviceError("MNRL_PRECISION=fp16 needs a GPU; use bf16, fp32 or auto")
    return wanted


def _arguments(
    settings: Settings, plan: Plan, precision: Precision, folder: Path
) -> SentenceTransformerTrainingArguments:
    state = PartialState()
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=settings.batch_size // state.num_processes,
        learning_rate=settings.learning_rate,
        # Rounded down: a run too short for a whole step of warm-up must not spend its first step at rate 0.
        warmup_steps=int(settings.warmup * len(plan)),
        weight_decay=settings.weight_decay,
        lr_scheduler_type=settings.schedule,
        seed=settings.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=state.device.type == "cpu",
        accelerator_config={"use_configured_state": True},
        dataloader_drop_last=True,
        dataloader_pin_memory=state.device.type == "cuda",
        logging_steps=log_interval(len(plan)),
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


class PlannedTrainer(SentenceTransformerTrainer):
    """The library's trainer over planned batches, speaking only through our progress.

    Attributes:
        plan: row numbers, shape (steps, batch size).
        precision: the arithmetic of the forward pass.
        global_loss: the loss, with its counters.
        progress: the last loss, and the digest of the rows trained on.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        settings: Settings,
        pairs: Pairs,
        batching: Batching,
        scratch: Path,
        staging: Path,
    ) -> None:
        state = PartialState()
        self.plan: Plan = np.load(batching.plan, mmap_mode="r")[: settings.max_steps]
        self.precision = choose_precision(settings.precision, state.device)
        rows_at_once = ROWS_AT_ONCE_ON_CPU if state.device.type == "cpu" else None
        self.global_loss = GlobalBatchLoss(model, settings.scale, state.num_processes, rows_at_once)
        log = staging / "training_log.jsonl"
        self.progress = Progress(log, self.plan, self.global_loss, shows=state.is_main_process)
        super().__init__(
            model=model,
            args=_arguments(settings, self.plan, self.precision, scratch / "trainer"),
            train_dataset=dataset(pairs, batching),
            loss=self.global_loss,
            callbacks=[self.progress],
        )
        self.remove_callback(PrinterCallback)

    def get_batch_sampler(self, dataset: Dataset, *_: Any, **__: Any) -> PlannedBatches:
        return PlannedBatches(dataset, self.plan, PartialState().num_processes)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """The library's card embeds training texts as widget examples and asks the Hub; ours is written later."""


def log_interval(steps: int) -> int:
    """Steps between two log lines: every step of a short run, about a thousand lines of a long one."""
    return max(1, steps // 1000)
