"""The training loop: Sentence Transformers' trainer over the planned batches."""

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from mnrl_job.errors import DeviceError
from mnrl_job.records import Pairs, Training
from mnrl_job.settings import Settings
from mnrl_job.training.batches import Plan, plan_run
from mnrl_job.training.loss import ROWS_AT_ONCE_ON_CPU, GlobalBatchLoss
from mnrl_job.training.progress import Progress
from mnrl_job.training.sampler import PlannedBatches

Precision = Literal["fp32", "bf16", "fp16"]


def train(
    model: SentenceTransformer, settings: Settings, pairs: Pairs, text_ids: Path, scratch: Path, staging: Path
) -> Training:
    """Fine-tune `model` in place with MultipleNegativesRankingLoss over the global batch.

    The loss is that of Henderson et al. 2017 (arXiv 1705.00652), section 4.4, on scaled cosine similarities.

    Args:
        model: trained in place, the same on every rank afterwards.
        settings: the run's.
        pairs: the training pairs as an Arrow file.
        text_ids: `.npy` of shape (rows, columns) for the batch plan.
        scratch: folder for the trainer's own files.
        staging: folder where the first rank writes `training_log.jsonl`.

    Raises:
        Diverged: the loss became NaN or infinite.
        DeviceError: the precision wanted is not to be had here.
    """
    state = PartialState()
    plan = plan_run(
        np.load(text_ids, mmap_mode="r"), settings.batch_size, settings.seed, settings.epochs, settings.max_steps
    )
    precision = choose_precision(settings.precision, state.device)
    dataset = Dataset.from_file(str(pairs.path))
    progress = Progress(staging / "training_log.jsonl", plan, shows=state.is_main_process)
    rows_at_once = ROWS_AT_ONCE_ON_CPU if state.device.type == "cpu" else None
    loss = GlobalBatchLoss(model, settings.scale, state.num_processes, rows_at_once)
    arguments = _arguments(settings, plan, precision, scratch / "trainer")
    trainer = _Trainer(model=model, args=arguments, train_dataset=dataset, loss=loss, callbacks=[progress])
    began = time.perf_counter()
    trainer.train()
    tokens = reduce(torch.tensor([int(loss.tokens), loss.padded_tokens], device=state.device), "sum").tolist()
    return Training(
        steps=len(plan),
        rows_used=len(np.unique(plan)),
        final_loss=progress.loss,
        negatives_per_anchor=settings.batch_size * (len(pairs.columns) - 1) - 1,
        precision=precision,
        seconds=time.perf_counter() - began,
        tokens=int(tokens[0]),
        padded_tokens=int(tokens[1]),
    )


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
    ranks = state.num_processes
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=settings.batch_size // ranks,
        batch_sampler=lambda data, **_: PlannedBatches(data, plan, ranks),
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


class _Trainer(SentenceTransformerTrainer):
    """The library's trainer, speaking only through our progress and leaving the model card to us."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.remove_callback(PrinterCallback)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """The library's card embeds training texts as widget examples and asks the Hub; ours is written later."""


def log_interval(steps: int) -> int:
    """Steps between two log lines: every step of a short run, about a thousand lines of a long one."""
    return max(1, steps // 1000)
